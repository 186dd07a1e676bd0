//! Reference.

use crate::{
    device::cpu::for_chunks,
    op::{Backward, Forward, GradMode},
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
