//! Launches of `activation.cu`.

use super::Kind;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands},
        variant::by_dtype,
    },
    op::{Backward, Forward},
};

const FORWARD: [&str; 3] =
    ["activation_forward_f32", "activation_forward_bf16", "activation_forward_f16"];
const BACKWARD: [&str; 3] =
    ["activation_backward_f32", "activation_backward_bf16", "activation_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    target: u64,
    len: u64,
    kind: i32,
    mode: i32,
}

/// `Kind` of the kernel.
fn number(kind: Kind) -> i32 {
    match kind {
        Kind::Silu => 0,
        Kind::Gelu => 1,
        Kind::QuickGelu => 2,
        Kind::Relu => 3,
        Kind::Tanh => 4,
        Kind::Elu => 5,
        Kind::Sigmoid => 6,
    }
}

pub(super) fn forward(kind: Kind, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (spec, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        x: ops.read("x", io.ins[0], spec),
        dy: 0,
        target: ops.at("y", io.out.address(), spec),
        len: spec.len() as u64,
        kind: number(kind),
        mode: OVERWRITE,
    };
    let symbol = by_dtype(spec.dtype, FORWARD);
    elementwise::launch(cuda, ("activation", symbol), (spec.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(kind: Kind, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (spec, mut ops) = (io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], spec);
    if target == 0 {
        return Ok(());
    }
    let args = Args {
        x: ops.read("x", io.ins[0], spec),
        dy: ops.read("dy", io.d_out, spec),
        target,
        len: spec.len() as u64,
        kind: number(kind),
        mode,
    };
    let symbol = by_dtype(spec.dtype, BACKWARD);
    elementwise::launch(cuda, ("activation", symbol), (spec.len(), 1), &args, &ops.touches)
}
