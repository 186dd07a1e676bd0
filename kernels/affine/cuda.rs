//! Launches of `affine.cu`.

use super::Affine;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const RUN: [&str; 3] = ["affine_f32", "affine_bf16", "affine_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    target: u64,
    len: u64,
    scale: f32,
    shift: f32,
    mode: i32,
    unused: i32,
}

fn run(cuda: &Cuda, spec: &Spec, args: &Args, ops: &Operands) -> Result<()> {
    let name = ("affine", by_dtype(spec.dtype, RUN));
    elementwise::launch(cuda, name, (spec.len(), 1), args, &ops.touches)
}

pub(super) fn forward(op: &Affine, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (spec, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], spec),
        target: ops.at("y", io.out.address(), spec),
        len: spec.len() as u64,
        scale: op.scale,
        shift: op.shift,
        mode: OVERWRITE,
        unused: 0,
    };
    run(cuda, spec, &args, &ops)
}

pub(super) fn backward(op: &Affine, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (spec, mut ops) = (io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], spec);
    if target == 0 {
        return Ok(());
    }
    let args = Args {
        from: ops.read("dy", io.d_out, spec),
        target,
        len: spec.len() as u64,
        scale: op.scale,
        shift: 0.0,
        mode,
        unused: 0,
    };
    run(cuda, spec, &args, &ops)
}
