//! CPU: the layer, then one pass over its result.

use super::{FusedLinear, Then};
use crate::{
    device::cpu::{Elements, sigmoid},
    kernels::{
        activation::{Kind, elu, gelu},
        check,
        linear::{cpu, rows},
    },
    op::Forward,
    tensor::{DType, Spec},
};

/// The layer's scratch, and `h` where it is wider than the output.
pub(super) fn scratch(op: FusedLinear, x: &Spec, h: &Spec, stored: DType) -> usize {
    let own = cpu::forward_scratch([rows(x), h.last(), x.last()], stored).next_multiple_of(64);
    let wide = if op.then == Then::Geglu { h.len().saturating_mul(4) } else { 0 };
    own.saturating_add(wide)
}

pub(super) fn forward(op: FusedLinear, mut io: Forward<'_>) {
    let stored = check::stored_weight(io.specs);
    let (x, w) = (&io.specs[0], Elements::of(io.ins[1], stored));
    let (m, k, n) = (rows(x), x.last(), io.specs[1].dims[0]);
    let own = cpu::forward_scratch([m, n, k], stored).next_multiple_of(64) / 4;
    let (packed, h) = io.scratch.f32().split_at_mut(own);
    let bias = if op.bias { Some(io.ins[2].f32()) } else { None };
    let out = io.out.f32();
    let gated = op.then == Then::Geglu;
    let target = if gated { &mut h[..m * n] } else { &mut *out };
    cpu::layer(target, io.ins[0].f32(), w, bias, [m, n, k], packed);
    match op.then {
        Then::Nothing => {}
        Then::Activation(kind) => out.iter_mut().for_each(|y| *y = value(kind, *y)),
        Then::Geglu => {
            let half = n / 2;
            for (y, h) in out.chunks_exact_mut(half.max(1)).zip(h.chunks_exact(n.max(1))) {
                let (values, gates) = h.split_at(half);
                for ((y, a), g) in y.iter_mut().zip(values).zip(gates) {
                    *y = a * gelu(*g);
                }
            }
        }
    }
    if let Some(r) = io.ins.last().filter(|_| op.residual) {
        out.iter_mut().zip(r.f32()).for_each(|(y, r)| *y += r);
    }
}

fn value(kind: Kind, x: f32) -> f32 {
    match kind {
        Kind::Silu => x * sigmoid(x),
        Kind::Gelu => gelu(x),
        Kind::QuickGelu => x * sigmoid(1.702 * x),
        Kind::Relu => x.max(0.0),
        Kind::Tanh => x.tanh(),
        Kind::Elu => elu(x),
        Kind::Sigmoid => sigmoid(x),
    }
}
