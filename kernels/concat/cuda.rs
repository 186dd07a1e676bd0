//! Launches of `concat.cu`.

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

const FORWARD: [&str; 3] = ["concat_forward_f32", "concat_forward_bf16", "concat_forward_f16"];
const BACKWARD: [&str; 3] = ["concat_backward_f32", "concat_backward_bf16", "concat_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    part: [u64; 2],
    joined: u64,
    len: u64,
    cols: [u32; 2],
    mode: [i32; 2],
}

fn launch(
    cuda: &Cuda,
    symbols: [&'static str; 3],
    joined: &Spec,
    args: &Args,
    ops: &Operands,
) -> Result<()> {
    let name = ("concat", by_dtype(joined.dtype, symbols));
    elementwise::launch(cuda, name, (joined.len(), 1), args, &ops.touches)
}

fn cols(specs: &[Spec]) -> Result<[u32; 2]> {
    Ok([extent("concat", specs[0].last())?, extent("concat", specs[1].last())?])
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let mut ops = Operands::default();
    let a = ops.read("a", io.ins[0], &io.specs[0]);
    let args = Args {
        part: [a, ops.read("b", io.ins[1], &io.specs[1])],
        joined: ops.at("y", io.out.address(), io.out_spec),
        len: io.out_spec.len() as u64,
        cols: cols(io.specs)?,
        mode: [OVERWRITE; 2],
    };
    launch(cuda, FORWARD, io.out_spec, &args, &ops)
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let mut ops = Operands::default();
    let (a, a_mode) = ops.gradient("da", &io.d_ins[0], &io.specs[0]);
    let (b, b_mode) = ops.gradient("db", &io.d_ins[1], &io.specs[1]);
    if a_mode == 0 && b_mode == 0 {
        return Ok(());
    }
    let args = Args {
        part: [a, b],
        joined: ops.read("dy", io.d_out, io.out_spec),
        len: io.out_spec.len() as u64,
        cols: cols(io.specs)?,
        mode: [a_mode, b_mode],
    };
    launch(cuda, BACKWARD, io.out_spec, &args, &ops)
}
