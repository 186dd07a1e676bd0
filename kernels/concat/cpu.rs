//! Reference.

use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, GradMode},
};

pub(super) fn forward(mut io: Forward<'_>) {
    let (a, b) = (io.ins[0].f32(), io.ins[1].f32());
    let (na, nb) = (io.specs[0].last(), io.specs[1].last());
    let c = na + nb;
    if c == 0 {
        return;
    }
    for_chunks(io.out.f32(), c, |at, chunk| {
        for (i, y) in chunk.chunks_exact_mut(c).enumerate() {
            let row = at / c + i;
            y[..na].copy_from_slice(&a[row * na..(row + 1) * na]);
            y[na..].copy_from_slice(&b[row * nb..(row + 1) * nb]);
        }
    });
}

pub(super) fn backward(io: Backward<'_>) {
    let (dy, c) = (io.d_out.f32(), io.out_spec.last());
    let mut from = 0;
    for (mut g, spec) in io.d_ins.into_iter().zip(io.specs) {
        let (n, mode, start) = (spec.last(), g.mode, from);
        from += n;
        if mode == GradMode::Skip || n == 0 {
            continue;
        }
        for_chunks(g.buf.f32(), n, |at, chunk| {
            for (i, d) in chunk.chunks_exact_mut(n).enumerate() {
                let row = (at / n + i) * c + start;
                match mode {
                    GradMode::Accumulate => {
                        d.iter_mut().zip(&dy[row..row + n]).for_each(|(d, v)| *d += v);
                    }
                    _ => d.copy_from_slice(&dy[row..row + n]),
                }
            }
        });
    }
}
