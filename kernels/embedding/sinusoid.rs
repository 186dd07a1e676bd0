//! Launches of `sinusoid.cu`.

use super::Sinusoid;
use crate::{
    device::Cuda,
    error::Result,
    kernels::elementwise::{self, OVERWRITE, Operands, extent},
    op::{Backward, Forward},
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    target: u64,
    len: u64,
    dim: i32,
    cos_first: i32,
    log_period: f32,
    divisor: f32,
    mode: i32,
    unused: i32,
}

fn settings(op: &Sinusoid) -> Result<Args> {
    Ok(Args {
        x: 0,
        dy: 0,
        target: 0,
        len: 0,
        dim: extent("sinusoid", op.dim)?.cast_signed(),
        cos_first: i32::from(op.flip_sin_to_cos),
        log_period: op.max_period.ln(),
        divisor: (op.dim / 2) as f32 - op.shift,
        mode: OVERWRITE,
        unused: 0,
    })
}

pub(super) fn forward(op: &Sinusoid, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        x: ops.read("x", io.ins[0], &io.specs[0]),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        ..settings(op)?
    };
    elementwise::launch(cuda, ("sinusoid", "sinusoid_forward"), (y.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(op: &Sinusoid, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, mut ops) = (&io.specs[0], Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if mode == 0 || x.is_empty() {
        return Ok(());
    }
    let args = Args {
        x: ops.read("x", io.ins[0], x),
        dy: ops.read("dy", io.d_out, io.out_spec),
        target,
        mode,
        ..settings(op)?
    };
    let kernel = cuda.kernel::<Args>("sinusoid", "sinusoid_backward")?;
    cuda.launch(&kernel, [x.len() as u64, 1, 1], &args, &ops.touches)
}
