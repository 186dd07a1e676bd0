//! Launch of `noise.cu`.

use crate::{
    device::{Cuda, Touched},
    error::Result,
    op::Forward,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    state: u64,
    out: u64,
    len: u64,
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let samples = io.out_spec.dims[0];
    if io.out_spec.is_empty() {
        return Ok(());
    }
    let kernel = cuda.kernel::<Args>("noise", "noise_normal")?;
    let len = (io.out_spec.len() / samples) as u64;
    let args = Args { state: io.ins[0].address(), out: io.out.address(), len };
    let grid = [len.div_ceil(u64::from(kernel.tile().block_cols)), samples as u64, 1];
    let touches = [
        Touched::new("state", args.state, &io.specs[0]),
        Touched::new("out", args.out, io.out_spec),
    ];
    cuda.launch(&kernel, grid, &args, &touches)
}
