//! Launches of `geglu.cu`.

use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const FORWARD: [&str; 3] = ["geglu_forward_f32", "geglu_forward_bf16", "geglu_forward_f16"];
const BACKWARD: [&str; 3] = ["geglu_backward_f32", "geglu_backward_bf16", "geglu_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    target: u64,
    len: u64,
    d: u32,
    mode: i32,
}

fn launch(
    cuda: &Cuda,
    symbols: [&'static str; 3],
    y: &Spec,
    args: &Args,
    ops: &Operands,
) -> Result<()> {
    let name = ("geglu", by_dtype(y.dtype, symbols));
    elementwise::launch(cuda, name, (y.len(), 1), args, &ops.touches)
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        x: ops.read("x", io.ins[0], &io.specs[0]),
        dy: 0,
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        d: extent("geglu", y.last())?,
        mode: OVERWRITE,
    };
    launch(cuda, FORWARD, y, &args, &ops)
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], &io.specs[0]);
    if target == 0 {
        return Ok(());
    }
    let args = Args {
        x: ops.read("x", io.ins[0], &io.specs[0]),
        dy: ops.read("dy", io.d_out, y),
        target,
        len: y.len() as u64,
        d: extent("geglu", y.last())?,
        mode,
    };
    launch(cuda, BACKWARD, y, &args, &ops)
}
