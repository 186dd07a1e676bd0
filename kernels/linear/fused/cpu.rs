//! CPU: the layer, then one pass over its result.

use super::{FusedLinear, Then};
use crate::{
    device::cpu::{Elements, for_chunks, sigmoid},
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
        Then::Activation(kind) => activate(kind, out),
        Then::Geglu => {
            let half = n / 2;
            for_chunks(
                out,
                half.max(1),
                #[inline(always)]
                |at, chunk| {
                    let rows = h[2 * at..].chunks_exact(n.max(1));
                    for (y, h) in chunk.chunks_exact_mut(half.max(1)).zip(rows) {
                        let (values, gates) = h.split_at(half);
                        for ((y, a), g) in y.iter_mut().zip(values).zip(gates) {
                            *y = a * gelu(*g);
                        }
                    }
                },
            );
        }
    }
    if let Some(r) = io.ins.last().filter(|_| op.residual) {
        cpu::add_residual(io.out.f32(), r.f32());
    }
}

fn activate(kind: Kind, out: &mut [f32]) {
    match kind {
        Kind::Silu => map(out, |x| x * sigmoid(x)),
        Kind::Gelu => map(out, gelu),
        Kind::QuickGelu => map(out, |x| x * sigmoid(1.702 * x)),
        Kind::Relu => map(out, |x| x.max(0.0)),
        Kind::Tanh => map(out, f32::tanh),
        Kind::Elu => map(out, elu),
        Kind::Sigmoid => map(out, sigmoid),
    }
}

fn map(out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    for_chunks(
        out,
        1,
        #[inline(always)]
        |_, chunk| chunk.iter_mut().for_each(|y| *y = f(*y)),
    );
}
