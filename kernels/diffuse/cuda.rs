//! Launches of `diffuse.cu`.

use super::Noising;
use crate::{
    device::Cuda,
    error::Result,
    kernels::elementwise::{self, OVERWRITE, Operands, extent},
    op::{Backward, Forward},
    tensor::Spec,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    t: u64,
    table: u64,
    from: [u64; 2],
    target: [u64; 2],
    each: u64,
    table_len: i32,
    velocity: i32,
    mode: [i32; 2],
}

/// Launches over the elements of each sample of `z`.
fn launch(cuda: &Cuda, symbol: &'static str, z: &Spec, args: &Args, ops: &Operands) -> Result<()> {
    let samples = z.dims[0];
    let each = z.len().checked_div(samples).unwrap_or(0);
    let args = Args { each: each as u64, ..*args };
    elementwise::launch(cuda, ("diffuse", symbol), (each, samples), &args, &ops.touches)
}

pub(super) fn forward(mix: Noising, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let args = Args {
        t: ops.read("t", io.ins[2], &specs[2]),
        table: ops.read("table", io.ins[3], &specs[3]),
        from: [ops.read("z", io.ins[0], &specs[0]), ops.read("eps", io.ins[1], &specs[1])],
        target: [ops.at("out", io.out.address(), io.out_spec), 0],
        each: 0,
        table_len: extent("diffuse", specs[3].len())?.cast_signed(),
        velocity: i32::from(mix == Noising::Velocity),
        mode: [OVERWRITE, 0],
    };
    launch(cuda, "diffuse_forward", io.out_spec, &args, &ops)
}

pub(super) fn backward(mix: Noising, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let (z, z_mode) = ops.gradient("dz", &io.d_ins[0], &specs[0]);
    let (eps, eps_mode) = ops.gradient("deps", &io.d_ins[1], &specs[1]);
    if z_mode == 0 && eps_mode == 0 {
        return Ok(());
    }
    let args = Args {
        t: ops.read("t", io.ins[2], &specs[2]),
        table: ops.read("table", io.ins[3], &specs[3]),
        from: [ops.read("dout", io.d_out, io.out_spec), 0],
        target: [z, eps],
        each: 0,
        table_len: extent("diffuse", specs[3].len())?.cast_signed(),
        velocity: i32::from(mix == Noising::Velocity),
        mode: [z_mode, eps_mode],
    };
    launch(cuda, "diffuse_backward", io.out_spec, &args, &ops)
}
