//! Reference: rows of pixels in parallel, a few vectors of channels at a time in registers.

use super::Shape;
use crate::{
    device::cpu::{for_chunks, wide},
    op::{Backward, Forward, GradMode},
};
use rayon::prelude::*;
use std::ops::Range;

/// Channels that a pixel's sums are kept in registers for.
const LANES: usize = 32;
/// Parts of the output rows that the weight's gradient is summed in, on every machine.
const PIECES: usize = 16;

impl Shape {
    /// Kernel rows (or columns) that meet the picture for the output position `o`: `0 <= o s + u - pad < size`.
    #[inline(always)]
    fn taps(&self, o: usize, size: usize, kernel: usize) -> Range<usize> {
        let first = self.pad.saturating_sub(o * self.stride);
        let end = (size + self.pad).saturating_sub(o * self.stride).min(kernel);
        first.min(end)..end
    }

    /// The output position that reads input position `i` with kernel position `u`.
    #[inline(always)]
    fn reader(&self, i: usize, u: usize, out: usize) -> Option<usize> {
        let ahead = (i + self.pad).checked_sub(u)?;
        let o = ahead / self.stride;
        (o * self.stride == ahead && o < out).then_some(o)
    }

    fn pieces(&self) -> usize {
        (self.n * self.oh).min(PIECES)
    }

    /// The weight's gradient and the bias's.
    fn piece_len(&self) -> usize {
        (self.kh * self.kw + 1) * self.c
    }
}

pub(super) fn backward_scratch(s: &Shape) -> usize {
    s.pieces() * s.piece_len() * size_of::<f32>()
}

/// `to[..] = start + sum over the taps of from w`, a block of channels at a time; `tap` gives the offsets of pixel
/// and weight.
#[inline(always)]
fn gather(
    to: &mut [f32],
    start: impl Fn(usize) -> f32,
    taps: impl Iterator<Item = (usize, usize)> + Clone,
    (from, w): (&[f32], &[f32]),
) {
    for (block, to) in to.chunks_mut(LANES).enumerate() {
        let (c0, n) = (block * LANES, to.len());
        let mut sum = [0.0f32; LANES];
        for (i, s) in sum[..n].iter_mut().enumerate() {
            *s = start(c0 + i);
        }
        for (pixel, tap) in taps.clone() {
            let (x, w) = (&from[pixel + c0..][..n], &w[tap + c0..][..n]);
            if n == LANES {
                for i in 0..LANES {
                    sum[i] += x[i] * w[i];
                }
            } else {
                for i in 0..n {
                    sum[i] += x[i] * w[i];
                }
            }
        }
        to.copy_from_slice(&sum[..n]);
    }
}

pub(super) fn forward(s: &Shape, mut io: Forward<'_>) {
    let (x, w, b, c) = (io.ins[0].f32(), io.ins[1].f32(), io.ins[2].f32(), s.c);
    if io.out_spec.is_empty() {
        return;
    }
    for_chunks(
        io.out.f32(),
        s.ow * c,
        #[inline(always)]
        |at, chunk| {
            for (r, row) in chunk.chunks_exact_mut(s.ow * c).enumerate() {
                let line = at / (s.ow * c) + r;
                let (n, oy) = (line / s.oh, line % s.oh);
                let rows = s.taps(oy, s.h, s.kh);
                for (ox, y) in row.chunks_exact_mut(c).enumerate() {
                    let columns = s.taps(ox, s.w, s.kw);
                    let taps = rows.clone().flat_map(|u| columns.clone().map(move |v| (u, v)));
                    let taps = taps.map(|(u, v)| {
                        let (iy, ix) = (oy * s.stride + u - s.pad, ox * s.stride + v - s.pad);
                        (((n * s.h + iy) * s.w + ix) * c, (u * s.kw + v) * c)
                    });
                    gather(y, |i| b[i], taps, (x, w));
                }
            }
        },
    );
}

pub(super) fn backward(s: &Shape, mut io: Backward<'_>) {
    let dy = io.d_out.f32();
    if io.d_ins[0].wanted() && !io.specs[0].is_empty() {
        let add = io.d_ins[0].mode == GradMode::Accumulate;
        input(s, io.d_ins[0].buf.f32(), dy, io.ins[1].f32(), add);
    }
    let scaled = io.d_ins[1].wanted();
    if !scaled && !io.d_ins[2].wanted() {
        return;
    }
    let used = s.pieces() * s.piece_len();
    let partial = &mut io.scratch.f32()[..used];
    let x = if scaled { io.ins[0].f32() } else { &[] };
    if used > 0 {
        weight(s, partial, x, dy);
    }
    let split = s.kh * s.kw * s.c;
    for (i, part) in [(1, 0..split), (2, split..split + s.c)] {
        let grad = &mut io.d_ins[i];
        if grad.wanted() {
            let (add, to) = (grad.mode == GradMode::Accumulate, grad.buf.f32());
            if !add {
                to.fill(0.0);
            }
            for piece in partial.chunks_exact(s.piece_len().max(1)) {
                to.iter_mut().zip(&piece[part.clone()]).for_each(|(t, p)| *t += p);
            }
        }
    }
}

fn input(s: &Shape, dx: &mut [f32], dy: &[f32], w: &[f32], add: bool) {
    let c = s.c;
    for_chunks(
        dx,
        s.w * c,
        #[inline(always)]
        |at, chunk| {
            for (r, row) in chunk.chunks_exact_mut(s.w * c).enumerate() {
                let line = at / (s.w * c) + r;
                let (n, iy) = (line / s.h, line % s.h);
                for (ix, dx) in row.chunks_exact_mut(c).enumerate() {
                    let taps = (0..s.kh).flat_map(|u| (0..s.kw).map(move |v| (u, v)));
                    let taps = taps.filter_map(|(u, v)| {
                        let (oy, ox) = (s.reader(iy, u, s.oh)?, s.reader(ix, v, s.ow)?);
                        Some((((n * s.oh + oy) * s.ow + ox) * c, (u * s.kw + v) * c))
                    });
                    let mut sum = [0.0; LANES];
                    for (block, dx) in dx.chunks_mut(LANES).enumerate() {
                        let sum = &mut sum[..dx.len()];
                        let moved =
                            taps.clone().map(|(p, t)| (p + block * LANES, t + block * LANES));
                        gather(sum, |_| 0.0, moved, (dy, w));
                        match add {
                            true => dx.iter_mut().zip(sum).for_each(|(d, s)| *d += *s),
                            false => dx.copy_from_slice(sum),
                        }
                    }
                }
            }
        },
    );
}

/// Sums of every piece of the output rows: the weight's gradient (not without `x`), then the bias's.
fn weight(s: &Shape, partial: &mut [f32], x: &[f32], dy: &[f32]) {
    let (c, rows) = (s.c, s.n * s.oh);
    let own = rows.div_ceil(s.pieces());
    partial.par_chunks_exact_mut(s.piece_len().max(1)).enumerate().for_each(|(p, part)| {
        part.fill(0.0);
        let (dw, db) = part.split_at_mut(s.kh * s.kw * c);
        wide(
            #[inline(always)]
            || {
                for line in (p * own).min(rows)..((p + 1) * own).min(rows) {
                    let (n, oy) = (line / s.oh, line % s.oh);
                    for ox in 0..s.ow {
                        let dy = &dy[(line * s.ow + ox) * c..][..c];
                        db.iter_mut().zip(dy).for_each(|(b, d)| *b += d);
                        if x.is_empty() {
                            continue;
                        }
                        for u in s.taps(oy, s.h, s.kh) {
                            for v in s.taps(ox, s.w, s.kw) {
                                let iy = oy * s.stride + u - s.pad;
                                let ix = ox * s.stride + v - s.pad;
                                let x = &x[((n * s.h + iy) * s.w + ix) * c..][..c];
                                let dw = &mut dw[(u * s.kw + v) * c..][..c];
                                for i in 0..c {
                                    dw[i] += dy[i] * x[i];
                                }
                            }
                        }
                    }
                }
            },
        );
    });
}
