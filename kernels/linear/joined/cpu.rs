//! CPU: one layer after another.

use super::Joined;
use crate::{
    device::cpu::Elements,
    kernels::{check, linear::cpu},
    op::Forward,
    tensor::DType,
};

pub(super) fn scratch(extents: [usize; 3], stored: DType) -> usize {
    cpu::forward_scratch(extents, stored)
}

pub(super) fn forward(op: Joined, mut io: Forward<'_>) {
    let stored = check::stored_weight(io.specs);
    let (x, [m, n, k]) = (io.ins[0].f32(), Joined::extents(io.specs));
    let parts = io.ins[1..].chunks(op.each());
    for (part, out) in parts.zip(io.out.f32().chunks_mut((m * n).max(1))) {
        let (w, bias) = (Elements::of(part[0], stored), part.get(1).map(|b| b.f32()));
        cpu::layer(out, x, w, bias, [m, n, k], io.scratch.f32());
    }
}
