//! Reference.

use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, Grad, GradMode},
};

pub(super) fn forward(mut io: Forward<'_>) {
    let (a, b) = (io.ins[0].f32(), io.ins[1].f32());
    for_chunks(
        io.out.f32(),
        1,
        #[inline(always)]
        |at, chunk| {
            for ((y, a), b) in chunk.iter_mut().zip(&a[at..]).zip(&b[at..]) {
                *y = a * b;
            }
        },
    );
}

pub(super) fn backward(io: Backward<'_>) {
    let dy = io.d_out.f32();
    for (i, mut g) in io.d_ins.into_iter().enumerate().filter(|(_, g)| g.wanted()) {
        let other = io.ins[1 - i].f32();
        let add = g.mode == GradMode::Accumulate;
        for_chunks(
            g.buf.f32(),
            1,
            #[inline(always)]
            |at, chunk| {
                for ((d, o), dy) in chunk.iter_mut().zip(&other[at..]).zip(&dy[at..]) {
                    let v = o * dy;
                    *d = if add { *d + v } else { v };
                }
            },
        );
    }
}

/// `target = from s`, `s` one factor a channel.
fn scale(target: &mut [f32], from: &[f32], s: &[f32], add: bool) {
    let c = s.len().max(1);
    for_chunks(
        target,
        c,
        #[inline(always)]
        |at, chunk| {
            for (y, x) in chunk.chunks_exact_mut(c).zip(from[at..].chunks_exact(c)) {
                for ((y, x), s) in y.iter_mut().zip(x).zip(s) {
                    *y = x * s + if add { *y } else { 0.0 };
                }
            }
        },
    );
}

pub(super) fn channels(mut io: Forward<'_>) {
    scale(io.out.f32(), io.ins[0].f32(), io.ins[1].f32(), false);
}

pub(super) fn channels_backward(mut io: Backward<'_>) {
    let dy = io.d_out.f32();
    if let Some(mut g) = io.d_ins.pop().filter(Grad::wanted) {
        let add = g.mode == GradMode::Accumulate;
        let ds = g.buf.f32();
        let (x, c) = (io.ins[0].f32(), ds.len().max(1));
        let mut sums = vec![0f64; ds.len()]; // thousands of rows: f32 would lose digits
        for (x, dy) in x.chunks_exact(c).zip(dy.chunks_exact(c)) {
            for ((s, x), dy) in sums.iter_mut().zip(x).zip(dy) {
                *s += f64::from(*x) * f64::from(*dy);
            }
        }
        for (d, s) in ds.iter_mut().zip(&sums) {
            *d = *s as f32 + if add { *d } else { 0.0 };
        }
    }
    if let Some(mut g) = io.d_ins.pop().filter(Grad::wanted) {
        let add = g.mode == GradMode::Accumulate;
        scale(g.buf.f32(), dy, io.ins[1].f32(), add);
    }
}
