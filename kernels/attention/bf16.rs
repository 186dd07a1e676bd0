//! CPU, operands rounded to bf16: the blocks of `cpu.rs` and `backward.rs` on the processor's bf16 unit. Scores, softmax
//! and all sums stay f32.

use super::{
    block::{harden, row_stride, seen, soften},
    cpu::{PIECES, Shape},
};
use crate::{
    device::cpu::{
        Elements, Initial, Taps, Unpacked,
        bf16::{self, BLOCK, Form, Packed, STEP, Session, Unit, pack_columns, steps},
        wide,
    },
    op::Forward,
};
use rayon::prelude::*;
use std::ops::Range;

/// Keys of a block, whole panels: 128 x 480 scores are 256 KiB, a part of the second-level cache.
const KEYS: usize = 480;
/// Queries and keys of a block of the backward pass.
pub(super) const BACKWARD: [usize; 2] = [128, 256];

/// The nearest bf16 number.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000);
    if x.is_nan() { x } else { rounded }
}

/// A dense matrix with rows `stride` apart: its rows as columns of an operand.
fn rows(x: &[f32], stride: usize, [count, len]: [usize; 2], scale: f32) -> Unpacked<'_> {
    operand(x, [len, 1], [count, stride], scale)
}

/// The same: its columns as columns of an operand.
fn columns(x: &[f32], stride: usize, [count, len]: [usize; 2], scale: f32) -> Unpacked<'_> {
    operand(x, [count, stride], [len, 1], scale)
}

fn operand(
    x: &[f32],
    [len, row_stride]: [usize; 2],
    [n, column_stride]: [usize; 2],
    scale: f32,
) -> Unpacked<'_> {
    let (data, taps) = (Elements::F32(x), Taps::All(1));
    Unpacked { data, taps, tap_stride: 0, len, row_stride, n, column_stride, scale }
}

/// Packed elements (16 bits) of `n` rows or columns of `len` elements.
fn packed_len(n: usize, len: usize) -> usize {
    n.div_ceil(BLOCK) * steps(1, len) * STEP
}

/// Packs all columns of `x`.
fn pack<'p>(to: &'p mut [u16], x: &Unpacked<'_>, form: Form) -> Packed<'p> {
    let each = steps(1, x.len) * STEP;
    for (i, to) in to[..packed_len(x.n, x.len)].chunks_mut(each.max(1)).enumerate() {
        pack_columns(to, x, i * BLOCK, 0..each / STEP, form);
    }
    Packed { data: to, each, first: 0 }
}

/// `to = initial + strips . panels` for `[rows, columns]` results over `len` elements; rows lie `stride` apart.
fn product(
    session: &Session,
    (strips, panels, len): (Packed<'_>, Packed<'_>, usize),
    to: (&mut [f32], usize),
    size: [usize; 2],
    initial: Initial<'_>,
) {
    bf16::product(session, (strips, panels, steps(1, len)), to, size, initial);
}

/// The elements of a head's packed keys, and of its values.
fn head_len(s: Shape) -> usize {
    s.lk.div_ceil(BLOCK) * steps(1, s.d) * STEP
}

/// f32 elements of a piece: scores, two statistics a query, packed queries and probabilities.
fn slot_len(s: Shape) -> usize {
    let keys = KEYS.min(s.lk);
    let packed = packed_len(s.rows, s.d) + packed_len(s.rows, keys);
    (s.rows * (row_stride(keys) + 2)).next_multiple_of(16) + packed / 2
}

/// Bytes of scratch of [`forward`].
pub(super) fn forward_scratch(s: Shape) -> usize {
    let heads = (s.n * s.h).saturating_mul(head_len(s)); // of two halves each
    let slots = (s.n * s.blocks).min(PIECES) * slot_len(s);
    heads.saturating_add(slots).saturating_mul(size_of::<f32>())
}

struct Job<'a> {
    unit: Unit,
    shape: Shape,
    q: &'a [f32],
    keys: &'a [u16],
    values: &'a [u16],
}

/// The forward pass.
pub(super) fn forward(unit: Unit, s: Shape, mut io: Forward<'_>) {
    let used = forward_scratch(s) / size_of::<f32>();
    if used == 0 || s.h == 0 {
        return;
    }
    let scratch = &mut io.scratch.f32()[..used];
    let (packed, slots) = scratch.split_at_mut(s.n * s.h * head_len(s));
    let packed: &mut [u16] = bytemuck::cast_slice_mut(packed);
    let (keys, values) = packed.split_at_mut(s.n * s.h * head_len(s));
    let (k, v) = (io.ins[1].f32(), io.ins[2].f32());
    let heads = keys.par_chunks_exact_mut(head_len(s));
    let heads = heads.zip(values.par_chunks_exact_mut(head_len(s)));
    heads.enumerate().for_each(|(at, (keys, values))| {
        let (sample, head, stride) = (at / s.h, at % s.h, s.h * s.d);
        let from = |row: usize| ((sample * s.lk + row) * s.h + head) * s.d;
        pack(keys, &rows(&k[from(0)..], stride, [s.lk, s.d], s.op.scale), Form::Panel);
        for j0 in (0..s.lk).step_by(KEYS) {
            let to = &mut values[j0 / BLOCK * steps(1, s.d) * STEP..];
            let count = KEYS.min(s.lk - j0);
            pack(to, &columns(&v[from(j0)..], stride, [count, s.d], 1.0), Form::Panel);
        }
    });
    let (keys, values) = (&*keys, &*values);
    let job = Job { unit, shape: s, q: io.ins[0].f32(), keys, values };
    job.split(0..s.n * s.blocks, io.out.f32(), io.saved[0].f32(), slots);
}

impl Job<'_> {
    /// Halves the blocks as long as there is scratch for both halves.
    fn split(&self, blocks: Range<usize>, out: &mut [f32], lse: &mut [f32], scratch: &mut [f32]) {
        let s = self.shape;
        let slots = scratch.len() / slot_len(s);
        let mid = blocks.start + blocks.len() / 2;
        let rows = |b: Range<usize>| s.row(b.end) - s.row(b.start);
        if slots < 2 || mid == blocks.start {
            let (session, mut out, mut lse) = (Session::new(self.unit), out, lse);
            for b in blocks {
                let (o, l);
                (o, out) = out.split_at_mut(rows(b..b + 1) * s.h * s.d);
                (l, lse) = lse.split_at_mut(rows(b..b + 1) * s.h);
                (0..s.h).for_each(|head| self.block(&session, (b, head), o, l, scratch));
            }
            return;
        }
        let (o1, o2) = out.split_at_mut(rows(blocks.start..mid) * s.h * s.d);
        let (l1, l2) = lse.split_at_mut(rows(blocks.start..mid) * s.h);
        let (s1, s2) = scratch.split_at_mut(slots / 2 * slot_len(s));
        rayon::join(
            || self.split(blocks.start..mid, o1, l1, s1),
            || self.split(mid..blocks.end, o2, l2, s2),
        );
    }

    /// One head of one block: `out` and `lse` are the block's, all heads.
    fn block(
        &self,
        session: &Session,
        (b, head): (usize, usize),
        out: &mut [f32],
        lse: &mut [f32],
        scratch: &mut [f32],
    ) {
        let s = self.shape;
        let (sample, i0) = (b / s.blocks, b % s.blocks * s.rows);
        let count = lse.len() / s.h;
        let keys = KEYS.min(s.lk);
        let plain = (s.rows * (row_stride(keys) + 2)).next_multiple_of(16);
        let (floats, packed) = scratch.split_at_mut(plain);
        let (scores, statistics) = floats.split_at_mut(s.rows * row_stride(keys));
        let (top, sum) = statistics[..2 * s.rows].split_at_mut(s.rows);
        let packed: &mut [u16] = bytemuck::cast_slice_mut(packed);
        let (queries, chances) = packed.split_at_mut(packed_len(s.rows, s.d));
        top.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        let stride = s.h * s.d;
        let q = &self.q[((sample * s.lq + i0) * s.h + head) * s.d..];
        let queries = pack(queries, &rows(q, stride, [count, s.d], 1.0), Form::Strip);
        let out = &mut out[head * s.d..];
        let end = if s.op.causal { (i0 + count).min(s.lk) } else { s.lk };
        let at = (sample * s.h + head) * head_len(s);
        for j0 in (0..end).step_by(KEYS) {
            let cols = KEYS.min(s.lk - j0);
            let row = row_stride(cols);
            let scores = &mut scores[..count * row];
            let skip = at + j0 / BLOCK * steps(1, s.d) * STEP;
            let keys = Packed { data: &self.keys[skip..], each: steps(1, s.d) * STEP, first: 0 };
            let values =
                Packed { data: &self.values[skip..], each: steps(1, cols) * STEP, first: 0 };
            product(session, (queries, keys, s.d), (scores, row), [count, cols], Initial::Zero);
            wide(
                #[inline(always)]
                || {
                    let all = scores.chunks_exact_mut(row).zip(out.chunks_mut(stride));
                    for (r, (p, o)) in all.enumerate() {
                        let seen = seen(s.op.causal, i0 + r, j0, cols);
                        soften(&mut p[..cols], seen, &mut top[r], &mut sum[r], &mut o[..s.d]);
                    }
                },
            );
            let p = pack(chances, &rows(scores, row, [count, cols], 1.0), Form::Strip);
            let start = if j0 > 0 { Initial::Old } else { Initial::Zero };
            product(session, (p, values, cols), (out, stride), [count, s.d], start);
        }
        for (r, o) in out.chunks_mut(stride).enumerate().take(count) {
            let factor = 1.0 / sum[r];
            o[..s.d].iter_mut().for_each(|o| *o *= factor);
            lse[r * s.h + head] = top[r] + sum[r].ln();
        }
    }
}

/// f32 elements of scratch of [`Part::run`] of a piece, for so many queries and keys of `d` channels.
pub(super) fn backward_slot([lq, keys]: [usize; 2], d: usize) -> usize {
    let [queries, keys] = [lq.min(BACKWARD[0]).max(1), keys.min(BACKWARD[1])];
    let [floats, packed] = backward_lens([queries, keys], d);
    floats.iter().chain(&packed).sum()
}

/// Scores, their gradient, `dk^T` and `dv^T`; then what is packed: `k`, `v` and `k` again of a block of keys, `q` and `do`
/// twice, the probabilities and twice the gradient of the scores.
fn backward_lens([queries, keys]: [usize; 2], d: usize) -> [[usize; 4]; 2] {
    let scores = queries * row_stride(keys);
    let floats = [scores, scores, d * row_stride(keys), d * row_stride(keys)];
    let of_keys = 2 * packed_len(keys, d) + packed_len(d, keys);
    let of_queries = 2 * packed_len(queries, d) + 2 * packed_len(d, queries);
    let of_scores = 2 * packed_len(keys, queries);
    let packed = [of_keys, of_queries, of_scores, packed_len(queries, keys)];
    [floats.map(|n| n.next_multiple_of(16)), packed.map(|n| n / 2)]
}

/// The keys `keys` of one head of a sample, against all of its queries.
pub(super) struct Part<'a> {
    pub unit: Unit,
    pub shape: Shape,
    pub sample: usize,
    pub head: usize,
    pub keys: Range<usize>,
    pub q: &'a [f32],
    pub k: &'a [f32],
    /// Empty when only `dv` is wanted.
    pub v: &'a [f32],
    pub d_out: &'a [f32],
    pub lse: &'a [f32],
    pub delta: &'a [f32],
    pub wants: [bool; 3],
}

impl Part<'_> {
    /// Adds to `dq` of all queries, and writes `dk` and `dv` of the keys, at most [`BACKWARD`] of them.
    pub fn run(&self, [dq, dk, dv]: [&mut [f32]; 3], slot: &mut [f32]) {
        let (s, session, stride) =
            (self.shape, Session::new(self.unit), self.shape.h * self.shape.d);
        let (cols, d, j0) = (self.keys.len(), s.d, self.keys.start);
        let through = self.wants[0] || self.wants[1];
        let row = row_stride(cols);
        let [floats, packed] = backward_lens([s.lq.min(BACKWARD[0]).max(1), cols], d);
        let mut rest = slot;
        let mut take = |n: usize| {
            let (own, after) = std::mem::take(&mut rest).split_at_mut(n);
            rest = after;
            own
        };
        let [scores, d_scores, dk_turned, dv_turned] = floats.map(&mut take);
        let [of_keys, of_queries, of_scores, strips] =
            packed.map(|n| bytemuck::cast_slice_mut::<f32, u16>(take(n)));
        dk_turned.fill(0.0);
        dv_turned.fill(0.0);
        let key = ((self.sample * s.lk + j0) * s.h + self.head) * d;
        let (keys, after) = of_keys.split_at_mut(packed_len(cols, d));
        let (values, keys_again) = after.split_at_mut(packed_len(cols, d));
        // scaled and rounded as forward does it: `lse` is that of the same scores
        let keys = pack(keys, &rows(&self.k[key..], stride, [cols, d], s.op.scale), Form::Panel);
        let keys_again =
            pack(keys_again, &columns(&self.k[key..], stride, [cols, d], s.op.scale), Form::Panel);
        let empty = Packed { data: &[], each: 0, first: 0 };
        let values = if through {
            pack(values, &rows(&self.v[key..], stride, [cols, d], 1.0), Form::Panel)
        } else {
            empty
        };
        for i0 in (0..s.lq).step_by(BACKWARD[0]) {
            let count = BACKWARD[0].min(s.lq - i0);
            if s.op.causal && j0 >= i0 + count {
                continue;
            }
            let query = ((self.sample * s.lq + i0) * s.h + self.head) * d;
            let (q, d_out) = (&self.q[query..], &self.d_out[query..]);
            let (scores, d_scores) = (&mut scores[..count * row], &mut d_scores[..count * row]);
            let (strip, after) = of_queries.split_at_mut(packed_len(count, d));
            let (d_strip, after) = after.split_at_mut(packed_len(count, d));
            let (turned, d_turned) = after.split_at_mut(packed_len(d, count));
            let size = [count, d];
            let strip = pack(strip, &rows(q, stride, size, 1.0), Form::Strip);
            product(&session, (strip, keys, d), (scores, row), [count, cols], Initial::Zero);
            if through {
                let d_strip = pack(d_strip, &rows(d_out, stride, size, 1.0), Form::Strip);
                product(
                    &session,
                    (d_strip, values, d),
                    (d_scores, row),
                    [count, cols],
                    Initial::Zero,
                );
            }
            wide(
                #[inline(always)]
                || {
                    let pairs = scores.chunks_exact_mut(row).zip(d_scores.chunks_exact_mut(row));
                    for (r, (p, ds)) in pairs.enumerate() {
                        let seen = seen(s.op.causal, i0 + r, j0, cols);
                        let ds = through.then_some(&mut ds[..cols]);
                        let statistics = (self.lse[i0 + r], self.delta[i0 + r]);
                        harden(&mut p[..cols], ds, seen, statistics);
                    }
                },
            );
            let (chances, d_chances) = of_scores.split_at_mut(packed_len(cols, count));
            let block = [count, cols];
            if self.wants[2] {
                let left = pack(d_turned, &columns(d_out, stride, size, 1.0), Form::Strip);
                let right = pack(chances, &columns(scores, row, block, 1.0), Form::Panel);
                product(&session, (left, right, count), (dv_turned, row), [d, cols], Initial::Old);
            }
            if self.wants[0] {
                let left = pack(strips, &rows(d_scores, row, block, 1.0), Form::Strip);
                let to = (&mut dq[i0 * d..], d);
                product(&session, (left, keys_again, cols), to, size, Initial::Old);
            }
            if self.wants[1] {
                let left = pack(turned, &columns(q, stride, size, s.op.scale), Form::Strip);
                let right = pack(d_chances, &columns(d_scores, row, block, 1.0), Form::Panel);
                product(&session, (left, right, count), (dk_turned, row), [d, cols], Initial::Old);
            }
        }
        for (to, from) in [(dk, dk_turned), (dv, dv_turned)] {
            for (j, to) in to.chunks_exact_mut(d).enumerate().take(cols) {
                to.iter_mut().enumerate().for_each(|(c, v)| *v = from[c * row + j]);
            }
        }
    }
}
