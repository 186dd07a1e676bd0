//! CPU: blocks of rows in parallel; a row stays in the first-level cache for its two or three
//! passes.

use crate::{
    device::cpu::{sum, sum2, wide},
    op::{Backward, Forward, GradMode},
};
use rayon::prelude::*;

/// Rows of one task; more when there are many, so that partial sums stay small.
fn block_rows(rows: usize) -> usize {
    rows.div_ceil(64).max(16)
}

/// Two rows of partial sums (`dgamma`, `dbeta`) for every block.
pub(super) fn backward_scratch(rows: usize, c: usize) -> usize {
    rows.div_ceil(block_rows(rows)) * 2 * c * size_of::<f32>()
}

pub(super) fn forward(eps: f32, mut io: Forward<'_>) {
    let (rows, c) = io.out_spec.rows_cols();
    let (x, gamma, beta) = (io.ins[0].f32(), io.ins[1].f32(), io.ins[2].f32());
    let [mean, rstd] = &mut io.saved[..] else { unreachable!("layer_norm: saves two") };
    let r = block_rows(rows);
    (io.out.f32().par_chunks_mut(r * c), x.par_chunks(r * c))
        .into_par_iter()
        .zip((mean.f32().par_chunks_mut(r), rstd.f32().par_chunks_mut(r)))
        .for_each(|((y, x), (mean, rstd))| {
            wide(
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(c).zip(x.chunks_exact(c));
                    for ((y, x), (mean, rstd)) in rows.zip(mean.iter_mut().zip(rstd)) {
                        (*mean, *rstd) = statistics(x, eps);
                        for i in 0..c {
                            y[i] = (x[i] - *mean) * *rstd * gamma[i] + beta[i];
                        }
                    }
                },
            );
        });
}

#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = sum(x, |v| v) / n;
    let var = sum(x, |v| (v - mean) * (v - mean)) / n;
    (mean, 1.0 / (var + eps).sqrt())
}

pub(super) fn backward(mut io: Backward<'_>) {
    let (rows, c) = io.out_spec.rows_cols();
    let r = block_rows(rows);
    let dy = io.d_out.f32();
    let mode = io.d_ins[0].mode;
    let stats = if io.saved.is_empty() {
        (&[][..], &[][..])
    } else {
        (io.saved[0].f32(), io.saved[1].f32())
    };
    let [dx, dgamma, dbeta] = &mut io.d_ins[..] else { unreachable!("layer_norm: three inputs") };
    if mode != GradMode::Skip {
        let (x, gamma) = (io.ins[0].f32(), io.ins[1].f32());
        let add = mode == GradMode::Accumulate;
        (dx.buf.f32().par_chunks_mut(r * c), x.par_chunks(r * c), dy.par_chunks(r * c))
            .into_par_iter()
            .zip((stats.0.par_chunks(r), stats.1.par_chunks(r)))
            .for_each(|((dx, x, dy), stats)| {
                wide(
                    #[inline(always)]
                    || input_gradient(dx, x, dy, gamma, stats, add),
                );
            });
    }
    let blocks = rows.div_ceil(r);
    let partial = &mut io.scratch.f32()[..blocks * 2 * c];
    if dgamma.wanted() {
        let x = io.ins[0].f32();
        (partial.par_chunks_mut(2 * c), x.par_chunks(r * c), dy.par_chunks(r * c))
            .into_par_iter()
            .zip((stats.0.par_chunks(r), stats.1.par_chunks(r)))
            .for_each(|((part, x, dy), stats)| {
                wide(
                    #[inline(always)]
                    || scale_and_shift(part, x, dy, stats),
                );
            });
    } else if dbeta.wanted() {
        (partial.par_chunks_mut(2 * c), dy.par_chunks(r * c)).into_par_iter().for_each(
            |(part, dy)| {
                part.fill(0.0);
                wide(
                    #[inline(always)]
                    || dy.chunks_exact(c).for_each(|dy| add_into(&mut part[c..], dy)),
                );
            },
        );
    }
    for (grad, offset) in [(dgamma, 0), (dbeta, c)] {
        if grad.wanted() {
            let add = grad.mode == GradMode::Accumulate;
            let out = grad.buf.f32();
            if !add {
                out.fill(0.0);
            }
            partial.chunks_exact(2 * c).for_each(|p| add_into(out, &p[offset..offset + c]));
        }
    }
}

#[inline(always)]
fn add_into(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
}

#[inline(always)]
fn input_gradient(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    (mean, rstd): (&[f32], &[f32]),
    add: bool,
) {
    let c = gamma.len();
    let rows = dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(c));
    for (((dx, x), dy), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
        let first = sum2(dy, gamma, |d, g| d * g) / c as f32;
        let mut second = 0.0;
        // sum of dy gamma (x - mean): three slices, so by pieces that sum2 can take
        let mut product = [0.0; 64];
        for ((x, dy), gamma) in x.chunks(64).zip(dy.chunks(64)).zip(gamma.chunks(64)) {
            for i in 0..x.len() {
                product[i] = dy[i] * gamma[i];
            }
            second += sum2(&product[..x.len()], x, |d, x| d * (x - mean));
        }
        let second = second * rstd * rstd / c as f32;
        for i in 0..c {
            let v = rstd * (dy[i] * gamma[i] - first - (x[i] - mean) * second);
            dx[i] = if add { dx[i] + v } else { v };
        }
    }
}

#[inline(always)]
fn scale_and_shift(part: &mut [f32], x: &[f32], dy: &[f32], (mean, rstd): (&[f32], &[f32])) {
    part.fill(0.0);
    let c = part.len() / 2;
    let (dgamma, dbeta) = part.split_at_mut(c);
    let rows = x.chunks_exact(c).zip(dy.chunks_exact(c));
    for ((x, dy), (mean, rstd)) in rows.zip(mean.iter().zip(rstd)) {
        for i in 0..c {
            dgamma[i] += dy[i] * ((x[i] - mean) * rstd);
            dbeta[i] += dy[i];
        }
    }
}
