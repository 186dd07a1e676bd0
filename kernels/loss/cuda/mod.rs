//! What the launches of both losses share: the partial sums.

pub(super) mod dco;
pub(super) mod masked_mse;

use crate::{
    device::{Cuda, Kernel, Touched},
    error::Result,
    op::BufMut,
};
use bytemuck::Pod;

/// About how many elements one block sums: 16 blocks for an SDXL latent, whose totals one block adds up.
const PART_LEN: usize = 4096;

/// Blocks that sum `each` elements of one sample.
fn parts(each: usize) -> usize {
    each.div_ceil(PART_LEN)
}

/// Scratch of the partial sums of `samples` of `each` elements.
pub(super) fn scratch_bytes(each: usize, samples: usize) -> usize {
    parts(each) * samples * size_of::<f64>()
}

/// The partial sums in `scratch`, and how many a sample has.
pub(super) fn partial(scratch: &BufMut<'_>, each: usize, samples: usize) -> (Touched, usize) {
    let bytes = scratch_bytes(each, samples);
    (Touched { what: "partial sums", address: scratch.address(), bytes }, parts(each))
}

/// Launches `symbol` over `grid` blocks; nothing when it is empty.
pub(super) fn launch<A: Pod>(
    cuda: &Cuda,
    symbol: &'static str,
    grid: [usize; 2],
    args: &A,
    touches: &[Touched],
) -> Result<()> {
    if grid.contains(&0) {
        return Ok(());
    }
    let kernel: Kernel<A> = cuda.kernel("loss", symbol)?;
    cuda.launch(&kernel, [grid[0] as u64, grid[1] as u64, 1], args, touches)
}
