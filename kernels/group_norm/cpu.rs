//! CPU forward: statistics by blocks of rows, then one scale and shift per sample and channel.

use super::GroupNorm;
use crate::{
    device::cpu::{sigmoid, wide},
    op::{Buf, Forward},
    tensor::Spec,
};
use rayon::prelude::*;
use std::ops::Range;

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

    /// Elements of the `i`-th block, counted over all samples, of a tensor with `c` columns.
    pub fn slice(self, x: &[f32], c: usize, i: usize) -> &[f32] {
        let (sample, rows) = (i / self.blocks, self.block(i % self.blocks));
        let from = sample * self.area * c;
        &x[from + rows.start * c..from + rows.end * c]
    }
}

/// A tensor that holds some of the columns of `x`, dense by itself.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// Which of the columns of `x`.
    pub columns: Range<usize>,
    /// `[N, .., columns]`.
    pub x: &'a [f32],
}

impl<'a> Part<'a> {
    /// The columns of the parts in `specs`.
    pub fn columns(op: GroupNorm, specs: &[Spec]) -> Vec<Range<usize>> {
        let mut end = 0;
        let ends = specs[..op.parts()].iter().map(|s| {
            let from = end;
            end += s.last();
            from..end
        });
        ends.collect()
    }

    /// The parts that `x` lies in.
    pub fn of(op: GroupNorm, specs: &[Spec], ins: &[Buf<'a>]) -> Vec<Self> {
        let columns = Self::columns(op, specs).into_iter();
        columns.zip(ins).map(|(columns, x)| Self { columns, x: x.f32() }).collect()
    }

    /// The rows of the `i`-th block, counted over all samples.
    pub fn block(&self, shape: Shape, i: usize) -> &'a [f32] {
        shape.slice(self.x, self.columns.len(), i)
    }
}

pub(super) fn forward(op: GroupNorm, mut io: Forward<'_>) {
    let shape = Shape::of(io.out_spec, op.groups);
    let parts = Part::of(op, io.specs, &io.ins);
    let (gamma, beta) = (io.ins[op.gamma()].f32(), io.ins[op.beta()].f32());
    let [mean, rstd] = &mut io.saved[..] else { unreachable!("group_norm: saves two") };
    let (mean, rstd) = (mean.f32(), rstd.f32());
    let (partial, tables) = shape.split(io.scratch.f32(), 2);
    partial.par_chunks_mut(2 * shape.c).enumerate().for_each(|(i, sums)| {
        let (mean, square) = sums.split_at_mut(shape.c);
        for part in &parts {
            let (mean, square) =
                (&mut mean[part.columns.clone()], &mut square[part.columns.clone()]);
            let x = part.block(shape, i);
            wide(
                #[inline(always)]
                || block_statistics(mean, square, x),
            );
        }
    });
    let stats = mean.chunks_exact_mut(op.groups).zip(rstd.chunks_exact_mut(op.groups));
    let samples = stats.zip(partial.chunks_exact(2 * shape.c * shape.blocks));
    for (((mean, rstd), partial), table) in samples.zip(tables.chunks_exact_mut(2 * shape.c)) {
        merge(op, shape, partial, (mean, rstd));
        scale_and_shift(table, (mean, rstd), gamma, beta);
    }
    let samples = io.out.f32().par_chunks_mut(shape.area * shape.c).enumerate();
    samples.zip(tables.par_chunks(2 * shape.c)).for_each(|((n, y), table)| {
        y.par_chunks_mut(shape.rows * shape.c).enumerate().for_each(|(b, y)| {
            for part in &parts {
                let x = part.block(shape, n * shape.blocks + b);
                wide(
                    #[inline(always)]
                    || apply(y, x, table, (part.columns.clone(), op.silu)),
                );
            }
        });
    });
}

/// The mean and the summed squared distance of every channel of one part in one block.
#[inline(always)]
fn block_statistics(mean: &mut [f32], square: &mut [f32], x: &[f32]) {
    let c = mean.len();
    let square = &mut square[..c];
    mean.fill(0.0);
    square.fill(0.0);
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

/// The `columns` of `y` from the part `x` that has them.
#[inline(always)]
fn apply(y: &mut [f32], x: &[f32], table: &[f32], (columns, silu): (Range<usize>, bool)) {
    let (a, b) = table.split_at(table.len() / 2);
    let (whole, c) = (a.len(), columns.len());
    let (a, b) = (&a[columns.clone()], &b[columns.clone()]);
    for (y, x) in y.chunks_exact_mut(whole).zip(x.chunks_exact(c)) {
        let y = &mut y[columns.clone()];
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
