//! Launches of `experts_sm90.cu`: rows and weights by tensor maps.

use super::products::{Args, Pass, Problem};
use crate::{
    device::{Cuda, Kernel, TensorMap, TensorMapSpec, Touched},
    error::Result,
};

/// The argument struct of `experts_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct TensorArgs {
    left: TensorMap,
    right: TensorMap,
    experts: Args,
    unused: [u32; 2],
}

/// `kSlab`: depth of a slab; elements of a swizzle row.
const SLAB: u32 = 64;

/// A tensor in boxes, extents outermost first.
fn map<const D: usize>(
    (cuda, p): (&Cuda, &Problem),
    (what, address): (&'static str, u64),
    dims: [usize; D],
    block: [u32; D],
) -> Result<TensorMap> {
    let size = p.dtype.size_bytes();
    let pitch = |i: usize| (dims[i..].iter().product::<usize>() * size) as u64;
    cuda.tensor_map(&TensorMapSpec {
        what,
        address,
        dtype: p.dtype,
        dims: dims.iter().rev().map(|n| *n as u64).collect(),
        strides: (1..D).rev().map(pitch).collect(),
        block: block.iter().rev().copied().collect(),
        swizzle: SLAB * size as u32,
    })
}

/// Launches `kernel`, one of the Hopper products, on `p`.
///
/// # Errors
/// Those of the maps and the launch.
pub(super) fn run(
    cuda: &Cuda,
    p: &Problem,
    kernel: &Kernel<TensorArgs>,
    experts: Args,
    touches: &[Touched],
) -> Result<()> {
    let (on, tile) = ((cuda, p), kernel.tile());
    let (left, right) = (("left", experts.left), ("right", experts.right));
    let (weight, atom) = ([p.experts, p.n, p.k], [SLAB, SLAB]);
    let share = [tile.block_rows / tile.cluster, SLAB];
    let [left, right] = match p.pass {
        Pass::Forward => [
            map(on, left, [p.rows, p.k], share)?,
            map(on, right, weight, [1, tile.block_cols, SLAB])?,
        ],
        Pass::Rows => {
            [map(on, left, [p.rows, p.n], share)?, map(on, right, weight, [1, SLAB, SLAB])?]
        }
        Pass::Weight => [map(on, left, [p.rows, p.n], atom)?, map(on, right, [p.rows, p.k], atom)?],
    };
    let down = |n: usize| n.div_ceil(tile.block_rows as usize);
    let rows = match p.pass {
        Pass::Weight => p.experts * down(p.n),
        // Every expert starts a new tile.
        _ => p.rows / tile.block_rows as usize + p.experts.min(p.rows),
    };
    let across = p.across().div_ceil((tile.block_cols * tile.cluster) as usize);
    let grid = cuda.persistent_grid(kernel, (rows * across) as u64)?;
    cuda.launch(kernel, grid, &TensorArgs { left, right, experts, unused: [0; 2] }, touches)
}
