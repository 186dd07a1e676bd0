//! Launch of `grad_norm.cu`.

use crate::{
    device::{Cuda, Touched},
    error::Result,
};

/// Blocks at most, four for each multiprocessor of an H200; fixed, so that the bits do not depend
/// on the chip.
const BLOCKS: usize = 528;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    grad: u64,
    partial: u64,
    len: u64,
    scale: u64,
    mean: f32,
    unused: i32,
}

/// Where the partial sums of [`squares_on`] lie: f64 each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Squares {
    /// Address of the first.
    pub address: u64,
    /// How many.
    pub parts: usize,
}

/// Bytes that the partial sums take at most.
pub const SQUARES_BYTES: usize = BLOCKS * size_of::<f64>();

/// Writes partial sums of `(mean g / scale)^2` over the `len` f32 numbers at `grad` to `partial`
/// ([`SQUARES_BYTES`]); the number of parts, and their order, depends on `len` alone. `scale` is the
/// address of a power of two, 1 without.
///
/// # Errors
/// Those of the launch.
pub fn squares_on(
    cuda: &Cuda,
    (grad, len): (u64, usize),
    (mean, scale): (f32, Option<u64>),
    partial: u64,
) -> Result<Squares> {
    let kernel = cuda.kernel::<Args>("grad_norm", "grad_norm_squares")?;
    let parts = len.div_ceil(kernel.tile().block_cols as usize).clamp(1, BLOCKS);
    let at = scale.unwrap_or(0);
    let args = Args { grad, partial, len: len as u64, scale: at, mean, unused: 0 };
    let mut touches = vec![
        Touched { what: "gradient", address: grad, bytes: len * size_of::<f32>() },
        Touched { what: "partial sums", address: partial, bytes: parts * size_of::<f64>() },
    ];
    let one = |address| Touched { what: "loss scale", address, bytes: size_of::<f32>() };
    touches.extend(scale.map(one));
    cuda.launch(&kernel, [parts as u64, 1, 1], &args, &touches)?;
    Ok(Squares { address: partial, parts })
}
