//! CPU backward: sums per channel by blocks of rows, then `dx = dz p + x q + r` with a table per
//! sample.

use super::{
    GroupNorm,
    cpu::{Part, Shape, scale_and_shift},
};
use crate::{
    device::cpu::{sigmoid, wide},
    op::{Backward, Grad, GradMode},
};
use rayon::prelude::*;
use std::ops::Range;

/// Rows a sample: `a, b` (z from x), `u, v` (normalised x from x), `q, r` of `dx`.
pub(super) const TABLES: usize = 6;

pub(super) fn backward(op: GroupNorm, mut io: Backward<'_>) {
    let shape = Shape::of(io.out_spec, op.groups);
    let c = shape.c;
    let dy = io.d_out.f32();
    let (partial, tables) = shape.split(io.scratch.f32(), TABLES);
    let (dx, [dgamma, dbeta]) = io.d_ins.split_at_mut(op.parts()) else {
        unreachable!("group_norm: gamma and beta")
    };
    let wanted = dx.iter().any(Grad::wanted);
    if !op.silu && !wanted && !dgamma.wanted() {
        shift_only(shape, partial, dy);
        return total(shape, partial, dbeta.beta(), dbeta.buf.f32(), c);
    }
    let parts = Part::of(op, io.specs, &io.ins);
    let gamma = io.ins[op.gamma()].f32();
    let beta = if op.silu { io.ins[op.beta()].f32() } else { gamma };
    let stats = (io.saved[0].f32(), io.saved[1].f32());
    for (i, table) in tables.chunks_exact_mut(TABLES * c).enumerate() {
        let groups = i * op.groups..(i + 1) * op.groups;
        let stats = (&stats.0[groups.clone()], &stats.1[groups]);
        let (ab, rest) = table.split_at_mut(2 * c);
        scale_and_shift(ab, stats, gamma, beta);
        normalize(&mut rest[..2 * c], stats);
    }
    partial.par_chunks_mut(2 * c).enumerate().for_each(|(i, sums)| {
        let table = &tables[i / shape.blocks * TABLES * c..][..4 * c];
        let dy = shape.slice(dy, c, i);
        for part in &parts {
            let x = part.block(shape, i);
            wide(
                #[inline(always)]
                || block_sums(sums, x, dy, table, (part.columns.clone(), op.silu)),
            );
        }
    });
    if dgamma.wanted() {
        total(shape, partial, dgamma.beta(), dgamma.buf.f32(), 0);
    }
    if dbeta.wanted() {
        total(shape, partial, dbeta.beta(), dbeta.buf.f32(), c);
    }
    if wanted {
        let samples = tables.chunks_exact_mut(TABLES * c);
        for (table, partial) in samples.zip(partial.chunks_exact_mut(2 * c * shape.blocks)) {
            means(shape, partial, table, gamma);
        }
        for (dx, part) in dx.iter_mut().zip(&parts).filter(|(dx, _)| dx.wanted()) {
            let add = dx.mode == GradMode::Accumulate;
            input_gradient(op, shape, (part, dy, tables), dx.buf.f32(), add);
        }
    }
}

/// `h = x u + v` of one sample.
fn normalize(table: &mut [f32], (mean, rstd): (&[f32], &[f32])) {
    let c = table.len() / 2;
    let width = c / mean.len();
    let (u, v) = table.split_at_mut(c);
    for i in 0..c {
        u[i] = rstd[i / width];
        v[i] = -mean[i / width] * u[i];
    }
}

#[inline(always)]
fn through_silu(dy: f32, z: f32) -> f32 {
    let s = sigmoid(z);
    dy * s * (z * (1.0 - s) + 1.0)
}

/// `sum dz h` and `sum dz` of the `columns` of one block.
#[inline(always)]
fn block_sums(
    sums: &mut [f32],
    x: &[f32],
    dy: &[f32],
    table: &[f32],
    (columns, silu): (Range<usize>, bool),
) {
    let (whole, c) = (sums.len() / 2, columns.len());
    let (scaled, plain) = sums.split_at_mut(whole);
    let (scaled, plain) = (&mut scaled[columns.clone()], &mut plain[columns.clone()]);
    scaled.fill(0.0);
    plain.fill(0.0);
    let row = |i: usize| &table[i * whole..][columns.clone()];
    let (a, b, u, v) = (row(0), row(1), row(2), row(3));
    for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(whole)) {
        let dy = &dy[columns.clone()];
        if silu {
            for i in 0..c {
                let dz = through_silu(dy[i], x[i] * a[i] + b[i]);
                scaled[i] += dz * (x[i] * u[i] + v[i]);
                plain[i] += dz;
            }
        } else {
            for i in 0..c {
                scaled[i] += dy[i] * (x[i] * u[i] + v[i]);
                plain[i] += dy[i];
            }
        }
    }
}

/// `sum dy` of every channel of every block, where nothing else is wanted.
fn shift_only(shape: Shape, partial: &mut [f32], dy: &[f32]) {
    let c = shape.c;
    partial.par_chunks_mut(2 * c).enumerate().for_each(|(i, part)| {
        part.fill(0.0);
        for dy in shape.slice(dy, c, i).chunks_exact(c) {
            part[c..].iter_mut().zip(dy).for_each(|(p, d)| *p += d);
        }
    });
}

/// The sum over all blocks of one half of the partial rows; `beta = 0` never reads `out`.
fn total(shape: Shape, partial: &[f32], beta: f32, out: &mut [f32], offset: usize) {
    if beta == 0.0 {
        out.fill(0.0);
    }
    for part in partial.chunks_exact(2 * shape.c) {
        out.iter_mut().zip(&part[offset..]).for_each(|(o, p)| *o += p);
    }
}

/// The tables `q, r` of one sample; its first partial rows become the sample's sums.
fn means(shape: Shape, partial: &mut [f32], table: &mut [f32], gamma: &[f32]) {
    let (c, width) = (shape.c, shape.c / shape.groups);
    let (first, others) = partial.split_at_mut(2 * c);
    for part in others.chunks_exact(2 * c) {
        first.iter_mut().zip(part).for_each(|(f, p)| *f += p);
    }
    let (scaled, plain) = first.split_at(c);
    let (uv, qr) = table[2 * c..].split_at_mut(2 * c);
    let (q, r) = qr.split_at_mut(c);
    for g in 0..shape.groups {
        let channels = g * width..(g + 1) * width;
        let count = (shape.area * width) as f64;
        let mean = |sums: &[f32]| {
            let all = sums[channels.clone()].iter().zip(&gamma[channels.clone()]);
            (all.map(|(s, g)| f64::from(*s) * f64::from(*g)).sum::<f64>() / count) as f32
        };
        let (mean_scaled, mean_plain) = (mean(scaled), mean(plain));
        for i in channels.clone() {
            let (rstd, shift) = (uv[i], uv[c + i]);
            q[i] = -rstd * mean_scaled * rstd;
            r[i] = -rstd * (mean_plain + mean_scaled * shift);
        }
    }
}

fn input_gradient(
    op: GroupNorm,
    shape: Shape,
    (part, dy, tables): (&Part<'_>, &[f32], &[f32]),
    dx: &mut [f32],
    add: bool,
) {
    let (columns, c) = (&part.columns, shape.c);
    dx.par_chunks_mut(shape.area * columns.len()).enumerate().for_each(|(n, dx)| {
        let table = &tables[n * TABLES * c..][..TABLES * c];
        dx.par_chunks_mut(shape.rows * columns.len()).enumerate().for_each(|(b, dx)| {
            let i = n * shape.blocks + b;
            let (x, dy) = (part.block(shape, i), shape.slice(dy, c, i));
            wide(
                #[inline(always)]
                || block_gradient(dx, x, dy, table, (columns.clone(), op.silu, add)),
            );
        });
    });
}

#[inline(always)]
fn block_gradient(
    dx: &mut [f32],
    x: &[f32],
    dy: &[f32],
    table: &[f32],
    (columns, silu, add): (Range<usize>, bool, bool),
) {
    let (whole, c) = (table.len() / TABLES, columns.len());
    let row = |i: usize| &table[i * whole..][columns.clone()];
    // gamma rstd is a
    let (a, b, q, r) = (row(0), row(1), row(4), row(5));
    for ((dx, x), dy) in dx.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(dy.chunks_exact(whole)) {
        let dy = &dy[columns.clone()];
        for i in 0..c {
            let dz = if silu { through_silu(dy[i], x[i] * a[i] + b[i]) } else { dy[i] };
            let v = dz * a[i] + x[i] * q[i] + r[i];
            dx[i] = if add { dx[i] + v } else { v };
        }
    }
}
