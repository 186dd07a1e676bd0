//! The reference: one element after the other.

use super::Affine;
use crate::op::{Backward, Forward};

pub(super) fn forward(op: &Affine, mut io: Forward<'_>) {
    for (y, x) in io.out.f32().iter_mut().zip(io.ins[0].f32()) {
        *y = op.scale * x + op.shift;
    }
}

pub(super) fn backward(op: &Affine, mut io: Backward<'_>) {
    let d_out = io.d_out.f32();
    let d_x = &mut io.d_ins[0];
    if !d_x.wanted() {
        return;
    }
    let add = d_x.beta() != 0.0;
    for (d, g) in d_x.buf.f32().iter_mut().zip(d_out) {
        *d = op.scale * g + if add { *d } else { 0.0 };
    }
}
