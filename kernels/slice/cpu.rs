//! Reference.

use super::Slice;
use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, GradMode},
};

pub(super) fn forward(op: Slice, mut io: Forward<'_>) {
    let (x, c, n) = (io.ins[0].f32(), io.specs[0].last(), op.len);
    if n == 0 {
        return;
    }
    for_chunks(io.out.f32(), n, |at, chunk| {
        for (i, y) in chunk.chunks_exact_mut(n).enumerate() {
            y.copy_from_slice(&x[(at / n + i) * c + op.from..][..n]);
        }
    });
}

pub(super) fn backward(op: Slice, mut io: Backward<'_>) {
    let (dy, c, n, mode) = (io.d_out.f32(), io.specs[0].last(), op.len, io.d_ins[0].mode);
    if mode == GradMode::Skip || c == 0 {
        return;
    }
    for_chunks(io.d_ins[0].buf.f32(), c, |at, chunk| {
        for (i, dx) in chunk.chunks_exact_mut(c).enumerate() {
            if mode == GradMode::Overwrite {
                dx.fill(0.0);
            }
            let part = dx[op.from..op.from + n].iter_mut();
            part.zip(&dy[(at / c + i) * n..]).for_each(|(d, v)| *d += v);
        }
    });
}
