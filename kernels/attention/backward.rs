//! CPU backward: every unit is one head and a range of keys; gradients are collected head by head in
//! scratch and then put back into `[N, L, H, D]`.

use super::{
    Attention,
    added::{Added, Place},
    bf16,
    block::{harden, row_stride, seen},
    cpu::{PIECES, Shape},
};
use crate::{
    device::cpu::{Mat, MatMut, Threads, for_chunks, matmul, sum2, wide},
    op::{Backward, Grad, GradMode},
};
use std::ops::Range;

/// Queries and keys of a block: two matrices of 128 x 240 are 240 KiB, a part of the second-level cache.
const QUERIES: usize = 128;
const KEYS: usize = 240;

/// How backward is cut: `[sample][head][part of the keys]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    shape: Shape,
    /// Parts of the keys.
    parts: usize,
    /// Keys of a part.
    keys: usize,
    /// Gradients of both parts of the bias in a unit.
    bins: [usize; 2],
}

impl Parts {
    /// Few heads: the keys are cut too, down to one block of them. A unit holds `bins` gradients of a bias.
    pub fn of(shape: Shape, bins: [usize; 2]) -> Self {
        let heads = (shape.n * shape.h).max(1);
        let most = PIECES.div_ceil(heads).min(shape.lk.div_ceil(KEYS)).max(1);
        let keys = shape.lk.div_ceil(most).next_multiple_of(16);
        Self { shape, parts: shape.lk.div_ceil(keys), keys, bins }
    }

    fn units(self) -> usize {
        self.shape.n * self.shape.h * self.parts
    }

    /// `dq, delta, lse` of all queries, `dk, dv` of the part's keys, the bias's.
    fn unit_len(self) -> usize {
        self.bins_at(2)
    }

    /// Where part `i` of the bias's gradients starts in a unit.
    fn bins_at(self, i: usize) -> usize {
        let before = self.shape.lq * (self.shape.d + 2) + 2 * self.keys * self.shape.d;
        before + self.bins[..i].iter().sum::<usize>()
    }

    /// Two blocks of scores.
    fn slot_len(self) -> usize {
        if self.shape.op.unit().is_some() {
            return bf16::backward_slot([self.shape.lq, self.keys], self.shape.d);
        }
        2 * QUERIES.min(self.shape.lq).max(1) * row_stride(KEYS.min(self.keys))
    }

    fn slots(self) -> usize {
        self.units().min(PIECES)
    }

    /// Bytes: the gradients of every unit, and blocks of scores for every piece.
    pub fn scratch(self) -> usize {
        (self.units() * self.unit_len() + self.slots() * self.slot_len()) * size_of::<f32>()
    }
}

struct Job<'a> {
    cut: Parts,
    q: &'a [f32],
    k: &'a [f32],
    /// Empty when only `dv` is wanted.
    v: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    d_out: &'a [f32],
    wants: [bool; 3],
    bias: Added<'a>,
    /// Whether a gradient of the bias is wanted.
    wants_bias: bool,
}

pub(super) fn backward(op: Attention, (bias, bins): (Added<'_>, [usize; 2]), mut io: Backward<'_>) {
    let cut = Parts::of(Shape::of(io.specs, op), bins);
    let wants = [io.d_ins[0].wanted(), io.d_ins[1].wanted(), io.d_ins[2].wanted()];
    let wants_bias = io.d_ins[3..].iter().any(Grad::wanted);
    if !wants.contains(&true) && !wants_bias || cut.units() == 0 {
        return io.d_ins[3..].iter_mut().for_each(clear);
    }
    let scores = wants[0] || wants[1] || wants_bias;
    let job = Job {
        cut,
        q: io.ins[0].f32(),
        k: io.ins[1].f32(),
        v: if scores { io.ins[2].f32() } else { &[] },
        out: if scores { io.out.f32() } else { &[] },
        lse: io.saved[0].f32(),
        d_out: io.d_out.f32(),
        wants,
        bias,
        wants_bias,
    };
    let (units, slots) = io.scratch.f32().split_at_mut(cut.units() * cut.unit_len());
    job.split(0..cut.units(), units, &mut slots[..cut.slots() * cut.slot_len()]);
    let (lq, d) = (cut.shape.lq, cut.shape.d);
    let dk_at = lq * (d + 2);
    let [dq, dk, dv, rest @ ..] = &mut io.d_ins[..] else {
        unreachable!("attention: three inputs or more")
    };
    put_back(cut, units, (dq, d), |i| (0..cut.parts, i * d), lq);
    for (grad, start) in [(dk, dk_at), (dv, dk_at + cut.keys * d)] {
        let place = |j: usize| (j / cut.keys..j / cut.keys + 1, start + j % cut.keys * d);
        put_back(cut, units, (grad, d), place, cut.shape.lk);
    }
    for (i, grad) in rest.iter_mut().enumerate() {
        let (at, n) = (cut.bins_at(i), cut.bins[i]);
        match bias {
            Added::Offsets { .. } => sum_heads(cut, units, grad, at..at + n),
            _ => put_back(cut, units, (grad, n / lq), |q| (0..cut.parts, at + q * (n / lq)), lq),
        }
    }
}

/// The gradient of what nothing reads.
fn clear(grad: &mut Grad<'_>) {
    if grad.mode == GradMode::Overwrite {
        grad.buf.f32().fill(0.0);
    }
}

/// Row `head` of a gradient `[H, n]` is the sum over the units of the head, each at `part`.
fn sum_heads(cut: Parts, units: &[f32], grad: &mut Grad<'_>, part: Range<usize>) {
    clear(grad);
    if !grad.wanted() {
        return;
    }
    let rows = grad.buf.f32().chunks_exact_mut(part.len());
    for (head, to) in rows.enumerate() {
        for (u, unit) in units.chunks_exact(cut.unit_len()).enumerate() {
            if u / cut.parts % cut.shape.h == head {
                to.iter_mut().zip(&unit[part.clone()]).for_each(|(t, f)| *t += f);
            }
        }
    }
}

/// Writes rows `[N, len, H, d]`: row `i` of a head is the sum over the parts that `place` names, each at
/// its offset in the unit.
fn put_back(
    cut: Parts,
    units: &[f32],
    (grad, d): (&mut Grad<'_>, usize),
    place: impl Fn(usize) -> (Range<usize>, usize) + Sync,
    len: usize,
) {
    if !grad.wanted() {
        return;
    }
    let h = cut.shape.h;
    let add = grad.mode == GradMode::Accumulate;
    for_chunks(
        grad.buf.f32(),
        h * d,
        #[inline(always)]
        |at, chunk| {
            for (r, row) in chunk.chunks_exact_mut(h * d).enumerate() {
                let row_at = at / (h * d) + r;
                let (sample, (parts, offset)) = (row_at / len, place(row_at % len));
                for (head, to) in row.chunks_exact_mut(d).enumerate() {
                    if !add {
                        to.fill(0.0);
                    }
                    for part in parts.clone() {
                        let unit = (sample * h + head) * cut.parts + part;
                        let from = &units[unit * cut.unit_len() + offset..][..d];
                        to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
                    }
                }
            }
        },
    );
}

impl Job<'_> {
    /// Halves the units as long as there is scratch for both halves.
    fn split(&self, range: Range<usize>, units: &mut [f32], slots: &mut [f32]) {
        let (unit_len, slot_len) = (self.cut.unit_len(), self.cut.slot_len());
        let count = slots.len() / slot_len;
        let half = range.len() / 2;
        if count < 2 || half == 0 {
            let each = range.zip(units.chunks_exact_mut(unit_len.max(1)));
            each.for_each(|(u, unit)| self.unit(u, unit, slots));
            return;
        }
        let mid = range.start + half;
        let (u1, u2) = units.split_at_mut(half * unit_len);
        let (s1, s2) = slots.split_at_mut(count / 2 * slot_len);
        rayon::join(|| self.split(range.start..mid, u1, s1), || self.split(mid..range.end, u2, s2));
    }

    fn unit(&self, u: usize, unit: &mut [f32], slot: &mut [f32]) {
        let s = self.cut.shape;
        let (sample, head) = (u / self.cut.parts / s.h, u / self.cut.parts % s.h);
        let (dq, rest) = unit.split_at_mut(s.lq * s.d);
        let (delta, rest) = rest.split_at_mut(s.lq);
        let (lse, rest) = rest.split_at_mut(s.lq);
        let (dk, rest) = rest.split_at_mut(self.cut.keys * s.d);
        let (dv, bins) = rest.split_at_mut(self.cut.keys * s.d);
        (0..s.lq).for_each(|i| lse[i] = self.lse[s.lse_at(sample, head, i)]);
        if self.wants[0] || self.wants[1] || self.wants_bias {
            wide(
                #[inline(always)]
                || self.deltas(sample, head, delta),
            );
        } else {
            delta.fill(0.0);
        }
        [&mut *dq, &mut *dk, &mut *dv, &mut *bins].into_iter().for_each(|g| g.fill(0.0));
        let first = u % self.cut.parts * self.cut.keys;
        let last = (first + self.cut.keys).min(s.lk);
        if let Some(unit) = s.op.unit() {
            for j0 in (first..last).step_by(bf16::BACKWARD[1]) {
                let keys = j0..(j0 + bf16::BACKWARD[1]).min(last);
                let own = (j0 - first) * s.d..(keys.end - first) * s.d;
                let (q, k, v, d_out) = (self.q, self.k, self.v, self.d_out);
                let (lse, delta, wants, shape) = (&*lse, &*delta, self.wants, s);
                let part = bf16::Part {
                    unit,
                    shape,
                    sample,
                    head,
                    keys,
                    q,
                    k,
                    v,
                    d_out,
                    lse,
                    delta,
                    wants,
                };
                part.run([&mut *dq, &mut dk[own.clone()], &mut dv[own]], slot);
            }
            return;
        }
        for j0 in (first..last).step_by(KEYS) {
            let keys = j0..(j0 + KEYS).min(last);
            let own = (j0 - first) * s.d..(keys.end - first) * s.d;
            let mut grads = Grads { dq, dk: &mut dk[own.clone()], dv: &mut dv[own], bins };
            for i0 in (0..s.lq).step_by(QUERIES) {
                let queries = i0..(i0 + QUERIES).min(s.lq);
                if !s.op.causal || j0 < queries.end {
                    let at = At { sample, head, queries, keys: keys.clone() };
                    self.block(&at, &mut grads, (lse, delta), slot);
                }
            }
        }
    }

    /// `delta[i] = do[i] . o[i]`.
    #[inline(always)]
    fn deltas(&self, sample: usize, head: usize, delta: &mut [f32]) {
        let s = self.cut.shape;
        for (i, delta) in delta.iter_mut().enumerate() {
            let at = ((sample * s.lq + i) * s.h + head) * s.d;
            let (d_out, out) = (&self.d_out[at..at + s.d], &self.out[at..at + s.d]);
            *delta = match s.op.unit() {
                // as the products see it: else what cancels in `dp - delta` would not
                Some(_) => sum2(d_out, out, |a, b| bf16::round(a) * b),
                None => sum2(d_out, out, |a, b| a * b),
            };
        }
    }

    fn block(
        &self,
        at: &At,
        grads: &mut Grads<'_>,
        (lse, delta): (&[f32], &[f32]),
        slot: &mut [f32],
    ) {
        let s = self.cut.shape;
        let (rows, cols) = (at.queries.len(), at.keys.len());
        let (i0, j0) = (at.queries.start, at.keys.start);
        let row = row_stride(cols);
        let (scores, rest) = slot.split_at_mut(rows * row);
        let d_prob = &mut rest[..rows * row];
        let query_row = |x| s.head(x, at.sample * s.lq + i0, rows, at.head);
        let (q, d_out) = (query_row(self.q), query_row(self.d_out));
        let k = s.head(self.k, at.sample * s.lk + j0, cols, at.head);
        let one = Threads::One;
        matmul(MatMut::strided(scores, rows, cols, row), q, k.t(), s.op.scale, 0.0, one);
        let through = self.wants[0] || self.wants[1] || self.wants_bias;
        if through {
            let v = s.head(self.v, at.sample * s.lk + j0, cols, at.head);
            matmul(MatMut::strided(d_prob, rows, cols, row), d_out, v.t(), 1.0, 0.0, one);
        }
        wide(
            #[inline(always)]
            || {
                let pairs = scores.chunks_exact_mut(row).zip(d_prob.chunks_exact_mut(row));
                let (first, second) = grads.bins.split_at_mut(self.cut.bins[0]);
                for (r, (p, d)) in pairs.enumerate() {
                    let (i, head) = (i0 + r, at.head);
                    let place = Place { row: s.lse_at(at.sample, head, i), head, i };
                    self.bias.add(&mut p[..cols], place, j0);
                    let seen = seen(s.op.causal, i0 + r, j0, cols);
                    let d_row = d;
                    let d = through.then_some(&mut d_row[..cols]);
                    harden(&mut p[..cols], d, seen, (lse[i0 + r], delta[i0 + r]));
                    if self.wants_bias {
                        self.bias.collect(&d_row[..cols], place, j0, [&mut *first, &mut *second]);
                    }
                }
            },
        );
        let (p, ds) =
            (Mat::strided(scores, rows, cols, row), Mat::strided(d_prob, rows, cols, row));
        if self.wants[2] {
            matmul(MatMut::new(grads.dv, cols, s.d), p.t(), d_out, 1.0, 1.0, one);
        }
        if self.wants[0] {
            let dq = &mut grads.dq[i0 * s.d..(i0 + rows) * s.d];
            matmul(MatMut::new(dq, rows, s.d), ds, k, s.op.scale, 1.0, one);
        }
        if self.wants[1] {
            matmul(MatMut::new(grads.dk, cols, s.d), ds.t(), q, s.op.scale, 1.0, one);
        }
    }
}

/// Which block.
struct At {
    sample: usize,
    head: usize,
    queries: Range<usize>,
    keys: Range<usize>,
}

/// `dq` of all queries; `dk, dv` of the block's keys; the bias's.
struct Grads<'a> {
    dq: &'a mut [f32],
    dk: &'a mut [f32],
    dv: &'a mut [f32],
    bins: &'a mut [f32],
}
