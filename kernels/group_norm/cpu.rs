//! CPU forward: statistics by blocks of rows, then one scale and shift per sample and channel.

use super::GroupNorm;
use crate::{
    device::cpu::{sigmoid, wide},
    op::Forward,
    tensor::Spec,
};
use rayon::prelude::*;

/// How `[N, .., C]` is cut: every sample into blocks of at most `rows` rows of `c` channels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Samples.
    pub n: usize,
    /// Positions of one sample.
    pub area: usize,
    /// Channels.
    pub c: usize,
    /// Groups.
    pub groups: usize,
    /// Rows of a block.
    pub rows: usize,
    /// Blocks of one sample.
    pub blocks: usize,
}

impl Shape {
    /// Blocks of about 64 KiB: two passes over one stay in the second-level cache.
    pub fn of(x: &Spec, groups: usize) -> Self {
        let (n, c) = (x.dims[0], x.last());
        let area = x.len() / (n * c).max(1);
        let rows = (16_384 / c.max(1)).clamp(16, 256).min(area.max(1));
        Self { n, area, c, groups, rows, blocks: area.div_ceil(rows) }
    }

    /// Bytes for two partial rows a block, and `tables` rows a sample.
    pub fn scratch(self, tables: usize) -> usize {
        self.n * self.c * (2 * self.blocks + tables) * size_of::<f32>()
    }

    /// The partial rows and the tables of a scratch buffer.
    pub fn split(self, scratch: &mut [f32], tables: usize) -> (&mut [f32], &mut [f32]) {
        let (partial, rest) = scratch.split_at_mut(self.n * self.blocks * 2 * self.c);
        (partial, &mut rest[..self.n * self.c * tables])
    }

    /// Rows of block `b`.
    pub fn block(self, b: usize) -> std::ops::Range<usize> {
        b * self.rows..((b + 1) * self.rows).min(self.area)
    }

    /// Elements of the `i`-th block, counted over all samples.
    pub fn slice(self, x: &[f32], i: usize) -> &[f32] {
        let (sample, rows) = (i / self.blocks, self.block(i % self.blocks));
        let from = sample * self.area * self.c;
        &x[from + rows.start * self.c..from + rows.end * self.c]
    }
}

pub(super) fn forward(op: GroupNorm, mut io: Forward<'_>) {
    let shape = Shape::of(io.out_spec, op.groups);
    let (x, gamma, beta) = (io.ins[0].f32(), io.ins[1].f32(), io.ins[2].f32());
    let [mean, rstd] = &mut io.saved[..] else { unreachable!("group_norm: saves two") };
    let (mean, rstd) = (mean.f32(), rstd.f32());
    let (partial, tables) = shape.split(io.scratch.f32(), 2);
    partial.par_chunks_mut(2 * shape.c).enumerate().for_each(|(i, part)| {
        let x = shape.slice(x, i);
        wide(
            #[inline(always)]
            || block_statistics(part, x),
        );
    });
    let stats = mean.chunks_exact_mut(op.groups).zip(rstd.chunks_exact_mut(op.groups));
    let samples = stats.zip(partial.chunks_exact(2 * shape.c * shape.blocks));
    for (((mean, rstd), partial), table) in samples.zip(tables.chunks_exact_mut(2 * shape.c)) {
        merge(op, shape, partial, (mean, rstd));
        scale_and_shift(table, (mean, rstd), gamma, beta);
    }
    let sample = shape.area * shape.c;
    let samples = io.out.f32().par_chunks_mut(sample).zip(x.par_chunks(sample));
    samples.zip(tables.par_chunks(2 * shape.c)).for_each(|((y, x), table)| {
        let step = shape.rows * shape.c;
        y.par_chunks_mut(step).zip(x.par_chunks(step)).for_each(|(y, x)| {
            wide(
                #[inline(always)]
                || apply(y, x, table, op.silu),
            );
        });
    });
}

/// The mean and the summed squared distance of every channel in one block.
#[inline(always)]
fn block_statistics(part: &mut [f32], x: &[f32]) {
    part.fill(0.0);
    let c = part.len() / 2;
    let (mean, square) = part.split_at_mut(c);
    for x in x.chunks_exact(c) {
        for i in 0..c {
            mean[i] += x[i];
        }
    }
    let per_row = c as f32 / x.len() as f32;
    mean.iter_mut().for_each(|m| *m *= per_row);
    for x in x.chunks_exact(c) {
        for i in 0..c {
            let d = x[i] - mean[i];
            square[i] += d * d;
        }
    }
}

/// Mean and rstd of the groups of one sample, from the channels of its blocks.
fn merge(op: GroupNorm, shape: Shape, partial: &[f32], (mean, rstd): (&mut [f32], &mut [f32])) {
    let width = shape.c / shape.groups;
    for g in 0..shape.groups {
        let (mut count, mut m, mut square) = (0.0f64, 0.0f64, 0.0f64);
        for (b, part) in partial.chunks_exact(2 * shape.c).enumerate() {
            let here = shape.block(b).len() as f64;
            let channels = g * width..(g + 1) * width;
            for (mc, sc) in part[channels.clone()].iter().zip(&part[shape.c..][channels]) {
                let d = f64::from(*mc) - m;
                let total = count + here;
                m += d * here / total;
                square += f64::from(*sc) + d * d * count * here / total;
                count = total;
            }
        }
        mean[g] = m as f32;
        rstd[g] = (1.0 / (square / count + f64::from(op.eps)).sqrt()) as f32;
    }
}

/// `z = x a + b` of one sample: `a` then `b` into `table`.
pub(super) fn scale_and_shift(
    table: &mut [f32],
    (mean, rstd): (&[f32], &[f32]),
    gamma: &[f32],
    beta: &[f32],
) {
    let c = gamma.len();
    let width = c / mean.len();
    let (a, b) = table.split_at_mut(c);
    for i in 0..c {
        a[i] = rstd[i / width] * gamma[i];
        b[i] = beta[i] - mean[i / width] * a[i];
    }
}

#[inline(always)]
fn apply(y: &mut [f32], x: &[f32], table: &[f32], silu: bool) {
    let c = table.len() / 2;
    let (a, b) = table.split_at(c);
    for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
        if silu {
            for i in 0..c {
                let z = x[i] * a[i] + b[i];
                y[i] = z * sigmoid(z);
            }
        } else {
            for i in 0..c {
                y[i] = x[i] * a[i] + b[i];
            }
        }
    }
}
