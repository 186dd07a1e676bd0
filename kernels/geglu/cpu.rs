//! Reference.

use crate::{
    device::cpu::for_chunks,
    kernels::activation::{gelu, gelu_slope},
    op::{Backward, Forward, GradMode},
};

pub(super) fn forward(mut io: Forward<'_>) {
    apply(io.out.f32(), io.ins[0].f32(), io.out_spec.last());
}

pub(super) fn backward(mut io: Backward<'_>) {
    if io.d_ins[0].wanted() {
        let add = io.d_ins[0].mode == GradMode::Accumulate;
        let (x, dy, d) = (io.ins[0].f32(), io.d_out.f32(), io.out_spec.last());
        gradient(io.d_ins[0].buf.f32(), (x, dy), d, add);
    }
}

/// `y = a gelu(g)` for rows `[a, g]` of `2 d` numbers.
pub(crate) fn apply(y: &mut [f32], x: &[f32], d: usize) {
    if d == 0 {
        return;
    }
    for_chunks(
        y,
        d,
        #[inline(always)]
        |at, chunk| {
            for (y, x) in chunk.chunks_exact_mut(d).zip(x[2 * at..].chunks_exact(2 * d)) {
                let (value, gate) = x.split_at(d);
                for ((y, a), g) in y.iter_mut().zip(value).zip(gate) {
                    *y = a * gelu(*g);
                }
            }
        },
    );
}

/// `dx` of [`apply`], added to what is there or not.
pub(crate) fn gradient(dx: &mut [f32], (x, dy): (&[f32], &[f32]), d: usize, add: bool) {
    if d == 0 {
        return;
    }
    for_chunks(
        dx,
        2 * d,
        #[inline(always)]
        |at, chunk| {
            let rows = x[at..].chunks_exact(2 * d).zip(dy[at / 2..].chunks_exact(d));
            for (dx, (x, dy)) in chunk.chunks_exact_mut(2 * d).zip(rows) {
                let ((da, dg), (a, g)) = (dx.split_at_mut(d), x.split_at(d));
                let values = da.iter_mut().zip(g).zip(dy);
                let gates = dg.iter_mut().zip(a).zip(g).zip(dy);
                if add {
                    values.for_each(|((da, g), dy)| *da += gelu(*g) * dy);
                    gates.for_each(|(((dg, a), g), dy)| *dg += a * gelu_slope(*g) * dy);
                } else {
                    values.for_each(|((da, g), dy)| *da = gelu(*g) * dy);
                    gates.for_each(|(((dg, a), g), dy)| *dg = a * gelu_slope(*g) * dy);
                }
            }
        },
    );
}
