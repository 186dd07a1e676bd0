//! Launch of `ema.cu`.

use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::elementwise,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    average: u64,
    value: u64,
    step: u64,
    len: u64,
    decay: f32,
    unused: i32,
}

/// [`super::update`] with [`super::warm_decay`] on flat device buffers of `len` f32.
///
/// The number of the step (i32, from 0) is read from device memory at `step`, so that a captured graph
/// serves every step.
///
/// # Errors
/// Those of [`Cuda::launch`].
pub fn update_device(
    cuda: &Cuda,
    (average, value): (u64, u64),
    len: usize,
    step: u64,
    decay: f32,
) -> Result<()> {
    let touch = |what, address, bytes| Touched { what, address, bytes };
    let touches = [
        touch("average", average, 4 * len),
        touch("value", value, 4 * len),
        touch("step", step, 4),
    ];
    let args = Args { average, value, step, len: len as u64, decay, unused: 0 };
    elementwise::launch(cuda, ("ema", "ema_update"), (len, 1), &args, &touches)
}
