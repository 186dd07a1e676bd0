//! Reference: one token, one expert after the other.

use super::{Table, extents};
use crate::{
    device::cpu::{
        Mat, MatMut, Threads, add_row_sums, exp, fill_rows, matmul, pool_size, sum2, wide,
    },
    op::{Backward, Forward, GradMode},
};
use rayon::prelude::*;

/// The parts of a table of `rows` rows.
struct View<'a> {
    row: &'a [i32],
    expert: &'a [i32],
    source: &'a [i32],
    offset: &'a [i32],
}

fn view(table: &[i32], rows: usize) -> View<'_> {
    let (row, rest) = table.split_at(rows);
    let (expert, rest) = rest.split_at(rows);
    let (source, offset) = rest.split_at(rows);
    View { row, expert, source, offset }
}

/// An entry of a table as an index.
fn index(i: i32) -> usize {
    usize::try_from(i).unwrap_or(0)
}

fn int(i: usize) -> i32 {
    i32::try_from(i).unwrap_or(i32::MAX)
}

/// Whether expert `e` is among the `k` greatest of a token's logits; ties: the lower expert.
fn selected(logits: &[f32], e: usize, k: usize) -> bool {
    let x = logits[e];
    let before = |(o, y): (usize, &f32)| *y > x || (*y == x && o < e);
    logits.iter().enumerate().filter(|(o, y)| before((*o, *y))).count() < k
}

/// The `k` experts of a token, one greatest logit after the other (ties: the lower expert; a NaN that stands
/// first counts as the greatest).
fn choose(logits: &[f32], k: usize) -> Vec<bool> {
    let mut taken = vec![false; logits.len()];
    for _ in 0..k.min(logits.len()) {
        let mut best: Option<usize> = None;
        for (e, x) in logits.iter().enumerate().filter(|(e, _)| !taken[*e]) {
            if best.is_none_or(|b| *x > logits[b]) {
                best = Some(e);
            }
        }
        best.into_iter().for_each(|e| taken[e] = true);
    }
    taken
}

/// The table of `logits: (tokens, experts)`.
pub(super) fn table(logits: &[f32], shape: Table) -> Vec<i32> {
    let (rows, k) = (shape.rows(), shape.slots);
    let mut all = vec![0; 3 * rows + shape.experts + 1];
    let (mut next, mut slot) = (0, vec![0; shape.tokens]);
    let chosen: Vec<Vec<bool>> = match k < shape.experts {
        true => logits.chunks_exact(shape.experts).map(|l| choose(l, k)).collect(),
        false => vec![vec![true; shape.experts]; shape.tokens],
    };
    for e in 0..shape.experts {
        all[3 * rows + e] = int(next);
        for (t, chosen) in chosen.iter().enumerate() {
            if !chosen[e] {
                continue;
            }
            let at = t * k + slot[t];
            slot[t] += 1;
            all[at] = int(next);
            all[rows + at] = int(e);
            all[2 * rows + next] = int(at);
            next += 1;
        }
    }
    all[3 * rows + shape.experts] = int(next);
    all
}

pub(super) fn route(shape: Table, mut io: Forward<'_>) {
    let table = table(io.ins[0].f32(), shape);
    io.out.raw().copy_from_slice(bytemuck::cast_slice(&table));
}

pub(super) fn permute(slots: usize, mut io: Forward<'_>) {
    let (x, c, rows) = (io.ins[0].f32(), io.out_spec.last(), io.out_spec.dims[0]);
    let table = view(io.ins[1].i32(), rows);
    for (y, source) in io.out.f32().chunks_exact_mut(c.max(1)).zip(table.source) {
        let t = index(*source) / slots;
        y.copy_from_slice(&x[t * c..(t + 1) * c]);
    }
}

pub(super) fn permute_backward(slots: usize, mut io: Backward<'_>) {
    let (dy, c, rows) = (io.d_out.f32(), io.out_spec.last(), io.out_spec.dims[0]);
    if !io.d_ins[0].wanted() {
        return;
    }
    let (table, mode) = (view(io.ins[1].i32(), rows), io.d_ins[0].mode);
    let tokens = io.d_ins[0].buf.f32().chunks_exact_mut(c.max(1));
    for (d, of_token) in tokens.zip(table.row.chunks_exact(slots)) {
        if mode == GradMode::Overwrite {
            d.fill(0.0);
        }
        for row in of_token {
            let dy = &dy[index(*row) * c..(index(*row) + 1) * c];
            d.iter_mut().zip(dy).for_each(|(d, v)| *d += v);
        }
    }
}

/// `(expert, its rows)` of a table.
fn groups(offset: &[i32]) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
    offset.windows(2).map(|w| index(w[0])..index(w[1])).enumerate()
}

/// `data` in pieces of `lens` elements.
fn split(mut data: &mut [f32], lens: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut parts = vec![];
    for len in lens {
        let (part, rest) = std::mem::take(&mut data).split_at_mut(len);
        parts.push(part);
        data = rest;
    }
    parts
}

/// Calls `f` once for each item, one of each expert: side by side where no expert has more than a thread's share of
/// the rows, else one after the other with all threads. The bits are the same.
fn of_experts<T: Send>(offset: &[i32], items: Vec<T>, f: impl Fn(T, Threads) + Sync) {
    let most = groups(offset).map(|(_, rows)| rows.len()).max().unwrap_or(0);
    let all = groups(offset).map(|(_, rows)| rows.len()).sum::<usize>();
    if most * pool_size() <= all {
        items.into_par_iter().for_each(|item| f(item, Threads::One));
    } else {
        items.into_iter().for_each(|item| f(item, Threads::All));
    }
}

pub(super) fn experts(mut io: Forward<'_>) {
    let (k, n) = (io.specs[0].last(), io.out_spec.last());
    let (x, w, b) = (io.ins[0].f32(), io.ins[2].f32(), io.ins[3].f32());
    let table = view(io.ins[1].i32(), io.out_spec.dims[0]);
    let y = split(io.out.f32(), groups(table.offset).map(|(_, rows)| rows.len() * n));
    let items = groups(table.offset).zip(y).collect();
    of_experts(table.offset, items, |((e, rows), y), threads| {
        fill_rows(y, &b[e * n..(e + 1) * n]);
        let x = Mat::new(&x[rows.start * k..rows.end * k], rows.len(), k);
        let w = Mat::new(&w[e * n * k..(e + 1) * n * k], n, k).t();
        matmul(MatMut::new(y, rows.len(), n), x, w, 1.0, 1.0, threads);
    });
}

pub(super) fn experts_backward(mut io: Backward<'_>) {
    let (k, n) = (io.specs[0].last(), io.out_spec.last());
    let (x, w, dy) = (io.ins[0].f32(), io.ins[2].f32(), io.d_out.f32());
    let table = view(io.ins[1].i32(), io.out_spec.dims[0]);
    let [d_rows, _, d_w, d_b] = io.d_ins.as_mut_slice() else {
        unreachable!("moe_experts: infer admits four inputs")
    };
    let betas = [d_rows.beta(), d_w.beta(), d_b.beta()];
    // nothing of what is not wanted
    let part = |wanted: bool, len: usize| if wanted { len } else { 0 };
    let wanted = [d_rows.wanted(), d_w.wanted(), d_b.wanted()];
    let d_rows =
        split(d_rows.buf.f32(), groups(table.offset).map(|(_, r)| part(wanted[0], r.len() * k)));
    let d_w = split(d_w.buf.f32(), groups(table.offset).map(|_| part(wanted[1], n * k)));
    let d_b = split(d_b.buf.f32(), groups(table.offset).map(|_| part(wanted[2], n)));
    let items = groups(table.offset).zip(d_rows).zip(d_w).zip(d_b).collect();
    of_experts(table.offset, items, |((((e, rows), d_rows), d_w), d_b), threads| {
        let of_rows = &dy[rows.start * n..rows.end * n];
        let dy = Mat::new(of_rows, rows.len(), n);
        if wanted[0] {
            let w = Mat::new(&w[e * n * k..(e + 1) * n * k], n, k);
            matmul(MatMut::new(d_rows, rows.len(), k), dy, w, 1.0, betas[0], threads);
        }
        if wanted[1] {
            let x = Mat::new(&x[rows.start * k..rows.end * k], rows.len(), k);
            matmul(MatMut::new(d_w, n, k), dy.t(), x, 1.0, betas[1], threads);
        }
        if wanted[2] {
            add_row_sums(d_b, of_rows, betas[2]);
        }
    });
}

/// Weight of each slot of one token.
fn weights(logits: &[f32], expert: &[i32], top_k: usize) -> Vec<f32> {
    let score = |e: &i32| {
        let e = index(*e);
        if selected(logits, e, top_k) { logits[e] } else { f32::NEG_INFINITY }
    };
    let scores: Vec<f32> = expert.iter().map(score).collect();
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let parts: Vec<f32> = scores.iter().map(|s| exp(s - most)).collect();
    let sum: f32 = parts.iter().sum();
    parts.iter().map(|p| p / sum).collect()
}

pub(super) fn combine(top_k: usize, io: Forward<'_>) {
    wide(
        #[inline(always)]
        || combine_rows(top_k, io),
    );
}

#[inline(always)]
fn combine_rows(top_k: usize, mut io: Forward<'_>) {
    let (rows, logits, c) = (io.ins[0].f32(), io.ins[2].f32(), io.out_spec.last());
    let shape = extents(&io.specs[0], &io.specs[2]);
    let table = view(io.ins[1].i32(), shape.rows());
    for (t, y) in io.out.f32().chunks_exact_mut(c.max(1)).enumerate() {
        let slots = t * shape.slots..(t + 1) * shape.slots;
        let logits = &logits[t * shape.experts..(t + 1) * shape.experts];
        let weights = weights(logits, &table.expert[slots.clone()], top_k);
        y.fill(0.0);
        for (w, row) in weights.iter().zip(&table.row[slots]).filter(|(w, _)| **w != 0.0) {
            let row = &rows[index(*row) * c..(index(*row) + 1) * c];
            y.iter_mut().zip(row).for_each(|(y, x)| *y += w * x);
        }
    }
}

pub(super) fn combine_backward(top_k: usize, io: Backward<'_>) {
    wide(
        #[inline(always)]
        || combine_slopes(top_k, io),
    );
}

#[inline(always)]
fn combine_slopes(top_k: usize, mut io: Backward<'_>) {
    let (logits, dy, c) = (io.ins[2].f32(), io.d_out.f32(), io.out_spec.last());
    let shape = extents(&io.specs[0], &io.specs[2]);
    let table = view(io.ins[1].i32(), shape.rows());
    let [d_rows, _, d_logits] = io.d_ins.as_mut_slice() else {
        unreachable!("moe_combine: infer admits three inputs")
    };
    for t in 0..shape.tokens {
        let slots = t * shape.slots..(t + 1) * shape.slots;
        let dy = &dy[t * c..(t + 1) * c];
        let of_token = t * shape.experts..(t + 1) * shape.experts;
        let expert = &table.expert[slots.clone()];
        let weights = weights(&logits[of_token.clone()], expert, top_k);
        if d_rows.wanted() {
            let keep = d_rows.beta();
            for (w, row) in weights.iter().zip(&table.row[slots.clone()]) {
                let d = &mut d_rows.buf.f32()[index(*row) * c..(index(*row) + 1) * c];
                for (d, g) in d.iter_mut().zip(dy) {
                    *d = w * g + if keep == 0.0 { 0.0 } else { *d };
                }
            }
        }
        if d_logits.wanted() {
            let rows = io.ins[0].f32();
            let slope = |row: &i32| -> f64 {
                let row = &rows[index(*row) * c..(index(*row) + 1) * c];
                f64::from(sum2(dy, row, |g, x| g * x))
            };
            let slopes: Vec<f64> = table.row[slots].iter().map(slope).collect();
            let mean: f64 = weights.iter().zip(&slopes).map(|(w, s)| f64::from(*w) * s).sum();
            let add = d_logits.mode == GradMode::Accumulate;
            let d = &mut d_logits.buf.f32()[of_token];
            if !add {
                d.fill(0.0);
            }
            for ((e, w), s) in expert.iter().zip(&weights).zip(&slopes) {
                d[index(*e)] += (f64::from(*w) * (s - mean)) as f32;
            }
        }
    }
}
