//! CPU forward: blocks of queries against blocks of keys, one head at a time.

use super::{
    Attention,
    added::{Added, Place},
    block::{row_stride, seen, soften},
};
use crate::{
    device::cpu::{Mat, MatMut, Right, Unpacked, matmul_packed, pack_here, packed_len, wide},
    op::Forward,
    tensor::Spec,
};
use rayon::prelude::*;
use std::ops::Range;

/// Parts that the work is cut into, whatever the number of threads: enough for a dozen cores, and
/// the sums do not depend on the machine.
pub(super) const PIECES: usize = 16;
/// Queries of a block.
const QUERIES: usize = 128;
/// Keys of a block: 128 x 496 scores are 248 KiB, a part of the second-level cache.
const KEYS: usize = 496;

/// Extents of one call and its blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Samples.
    pub n: usize,
    /// Queries.
    pub lq: usize,
    /// Keys.
    pub lk: usize,
    /// Heads.
    pub h: usize,
    /// Channels of a head.
    pub d: usize,
    /// Queries of a block.
    pub rows: usize,
    /// Blocks of one sample.
    pub blocks: usize,
    /// The operation's settings.
    pub op: Attention,
}

impl Shape {
    /// The shape of `q, k, ..`, four axes each.
    pub fn of(ins: &[Spec], op: Attention) -> Self {
        let (q, lk) = (&ins[0].dims, ins[1].dims[1]);
        let (n, lq, h, d) = (q[0], q[1], q[2], q[3]);
        // small calls: eight tasks, but no slivers that a matrix product cannot use
        let rows = (n * lq).div_ceil(8).next_multiple_of(16).clamp(16, QUERIES).min(lq.max(1));
        Self { n, lq, lk, h, d, rows, blocks: lq.div_ceil(rows), op }
    }

    /// Query rows before block `b`, blocks counted over all samples.
    pub fn row(self, b: usize) -> usize {
        let blocks = self.blocks.max(1);
        b / blocks * self.lq + (b % blocks * self.rows).min(self.lq)
    }

    /// Where the saved `lse` of query `i` of a sample and head stands in `[N, Lq, H]`.
    pub fn lse_at(self, sample: usize, head: usize, i: usize) -> usize {
        (sample * self.lq + i) * self.h + head
    }

    /// `len` rows from `from` of one head of `[N, L, H, D]`.
    pub fn head(self, x: &[f32], from: usize, len: usize, head: usize) -> Mat<'_> {
        let start = (from * self.h + head) * self.d;
        Mat::strided(&x[start..], len, self.d, self.h * self.d)
    }

    fn slot_len(self) -> usize {
        self.rows * (row_stride(KEYS.min(self.lk)) + 2)
    }

    /// Bytes: packed keys and values, and a block of scores and two statistics a query for every piece.
    pub fn forward_scratch(self) -> usize {
        let heads = (self.n * self.h).saturating_mul(self.keys_len() + self.values_len());
        let slots = (self.n * self.blocks).min(PIECES) * self.slot_len();
        heads.saturating_add(slots).saturating_mul(size_of::<f32>())
    }

    /// Elements of a head's packed keys, `k^T`.
    fn keys_len(self) -> usize {
        packed_len(self.d, self.lk)
    }

    /// Elements of a head's packed values.
    fn values_len(self) -> usize {
        packed_len(self.lk, self.d)
    }
}

struct Job<'a> {
    shape: Shape,
    q: &'a [f32],
    /// Packed keys and values of every head, block by block of keys.
    keys: &'a [f32],
    values: &'a [f32],
    bias: Added<'a>,
}

pub(super) fn forward(op: Attention, bias: Added<'_>, mut io: Forward<'_>) {
    let shape = Shape::of(io.specs, op);
    let used = shape.forward_scratch() / size_of::<f32>();
    if used == 0 || shape.h == 0 {
        return;
    }
    let scratch = &mut io.scratch.f32()[..used];
    let (keys, rest) = scratch.split_at_mut(shape.n * shape.h * shape.keys_len());
    let (values, slots) = rest.split_at_mut(shape.n * shape.h * shape.values_len());
    let (k, v) = (io.ins[1].f32(), io.ins[2].f32());
    let heads = keys.par_chunks_exact_mut(shape.keys_len());
    let heads = heads.zip(values.par_chunks_exact_mut(shape.values_len()));
    heads.enumerate().for_each(|(at, (keys, values))| shape.pack(at, (k, v), (keys, values)));
    let job = Job { shape, q: io.ins[0].f32(), keys, values, bias };
    job.split(0..shape.n * shape.blocks, io.out.f32(), io.saved[0].f32(), slots);
}

impl Shape {
    /// Packs the keys, scaled, and the values of one head of one sample for all its queries.
    fn pack(self, at: usize, (k, v): (&[f32], &[f32]), (keys, values): (&mut [f32], &mut [f32])) {
        let (sample, head) = (at / self.h, at % self.h);
        for j0 in (0..self.lk).step_by(KEYS) {
            let cols = KEYS.min(self.lk - j0);
            let [k, v] = [k, v].map(|x| self.head(x, sample * self.lk + j0, cols, head));
            pack_here(&mut keys[packed_len(self.d, j0)..], &Unpacked::of(k.t(), self.op.scale));
            pack_here(&mut values[packed_len(j0, self.d)..], &Unpacked::of(v, 1.0));
        }
    }
}

impl Job<'_> {
    /// Halves the blocks as long as there is scratch for both halves.
    fn split(&self, blocks: Range<usize>, out: &mut [f32], lse: &mut [f32], scratch: &mut [f32]) {
        let s = self.shape;
        let slots = scratch.len() / s.slot_len();
        let mid = blocks.start + blocks.len() / 2;
        let rows = |b: Range<usize>| s.row(b.end) - s.row(b.start);
        if slots < 2 || mid == blocks.start {
            let (mut out, mut lse) = (out, lse);
            for b in blocks {
                let (o, l);
                (o, out) = out.split_at_mut(rows(b..b + 1) * s.h * s.d);
                (l, lse) = lse.split_at_mut(rows(b..b + 1) * s.h);
                (0..s.h).for_each(|head| self.block(b, head, o, l, scratch));
            }
            return;
        }
        let (o1, o2) = out.split_at_mut(rows(blocks.start..mid) * s.h * s.d);
        let (l1, l2) = lse.split_at_mut(rows(blocks.start..mid) * s.h);
        let (s1, s2) = scratch.split_at_mut(slots / 2 * s.slot_len());
        rayon::join(
            || self.split(blocks.start..mid, o1, l1, s1),
            || self.split(mid..blocks.end, o2, l2, s2),
        );
    }

    /// One head of one block: `out` and `lse` are the block's, all heads.
    fn block(&self, b: usize, head: usize, out: &mut [f32], lse: &mut [f32], scratch: &mut [f32]) {
        let s = self.shape;
        let (sample, i0) = (b / s.blocks, b % s.blocks * s.rows);
        let rows = lse.len() / s.h;
        let (top, rest) = scratch.split_at_mut(rows);
        let (sum, scores) = rest.split_at_mut(rows);
        top.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let q = s.head(self.q, sample * s.lq + i0, rows, head);
        let stride = s.h * s.d;
        let out = &mut out[head * s.d..];
        let end = if s.op.causal { (i0 + rows).min(s.lk) } else { s.lk };
        for j0 in (0..end).step_by(KEYS) {
            let cols = KEYS.min(s.lk - j0);
            let row = row_stride(cols);
            let scores = &mut scores[..rows * row];
            let at = sample * s.h + head;
            let keys = &self.keys[at * s.keys_len() + packed_len(s.d, j0)..];
            let values = &self.values[at * s.values_len() + packed_len(j0, s.d)..];
            let qk = MatMut::strided(scores, rows, cols, row);
            matmul_packed(qk, q, Right { data: keys, n: cols }, false);
            wide(
                #[inline(always)]
                || {
                    let all = scores.chunks_exact_mut(row).zip(out.chunks_mut(stride));
                    for (r, (p, o)) in all.enumerate() {
                        let row = s.lse_at(sample, head, i0 + r);
                        self.bias.add(&mut p[..cols], Place { row, head, i: i0 + r }, j0);
                        let seen = seen(s.op.causal, i0 + r, j0, cols);
                        soften(&mut p[..cols], seen, &mut top[r], &mut sum[r], &mut o[..s.d]);
                    }
                },
            );
            let (o, p) =
                (MatMut::strided(out, rows, s.d, stride), Mat::strided(scores, rows, cols, row));
            matmul_packed(o, p, Right { data: values, n: s.d }, j0 > 0);
        }
        for (r, o) in out.chunks_mut(stride).enumerate().take(rows) {
            let factor = 1.0 / sum[r];
            o[..s.d].iter_mut().for_each(|o| *o *= factor);
            lse[r * s.h + head] = top[r] + sum[r].ln();
        }
    }
}
