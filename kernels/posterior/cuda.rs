//! Launches of `posterior.cu`.

use crate::{
    device::Cuda,
    error::Result,
    kernels::elementwise::{self, OVERWRITE, Operands, extent},
    op::{Backward, Forward},
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    moments: u64,
    eps: u64,
    dz: u64,
    target: [u64; 2],
    len: u64,
    channels: u32,
    scale: f32,
    mode: [i32; 2],
}

pub(super) fn forward(scale: f32, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (z, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        moments: ops.read("moments", io.ins[0], &io.specs[0]),
        eps: ops.read("eps", io.ins[1], z),
        dz: 0,
        target: [ops.at("z", io.out.address(), z), 0],
        len: z.len() as u64,
        channels: extent("posterior", z.last())?,
        scale,
        mode: [OVERWRITE, 0],
    };
    let name = ("posterior", "posterior_forward");
    elementwise::launch(cuda, name, (z.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(scale: f32, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (z, mut ops) = (io.out_spec, Operands::default());
    let (moments, moments_mode) = ops.gradient("d moments", &io.d_ins[0], &io.specs[0]);
    let (eps, eps_mode) = ops.gradient("d eps", &io.d_ins[1], z);
    if moments_mode == 0 && eps_mode == 0 {
        return Ok(());
    }
    let args = Args {
        moments: ops.read("moments", io.ins[0], &io.specs[0]),
        eps: ops.read("eps", io.ins[1], z),
        dz: ops.read("dz", io.d_out, z),
        target: [moments, eps],
        len: z.len() as u64,
        channels: extent("posterior", z.last())?,
        scale,
        mode: [moments_mode, eps_mode],
    };
    let name = ("posterior", "posterior_backward");
    elementwise::launch(cuda, name, (z.len(), 1), &args, &ops.touches)
}
