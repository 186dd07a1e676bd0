//! Launches of the Hopper products with a narrow side: an adapter's.

use super::{
    effort::Cut,
    problem::{Operands, Pass, Problem, int},
    sums,
    tensor::{Maps, Matrix, SLAB},
    tilings::Tiling,
};
use crate::{
    device::{Cuda, TensorMap, Touched},
    error::Result,
};

/// Blocks that share a tile of `project`, each with its part of the sum.
pub(super) const CLUSTER: usize = 4;
/// Wide columns of a `grad` tile.
pub(super) const WIDE_COLS: usize = 128;

/// `ProjectArgs` of `gemm/skinny_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ProjectArgs {
    left: TensorMap,
    right: TensorMap,
    bias: u64,
    out: u64,
    alpha: f32,
    m: i32,
    n: i32,
    k_slabs: i32,
    accumulate: i32,
    unused: [u32; 7],
}

/// `GradArgs` of `gemm/skinny_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradArgs {
    wide: TensorMap,
    narrow: TensorMap,
    parts: u64,
    slabs: i32,
    wide_cols: i32,
    narrow_cols: i32,
    unused: [u32; 11],
}

/// Launches one product; `scratch` holds the partial sums of a weight gradient.
///
/// # Errors
/// Those of the maps and the launches.
pub(super) fn run(
    cuda: &Cuda,
    p: &Problem,
    t: &Tiling,
    o: &Operands,
    scratch: u64,
    touches: &[Touched],
) -> Result<()> {
    match p.pass {
        Pass::Weight => grad(cuda, p, t, o, scratch, touches),
        _ => project(cuda, p, t, o, touches),
    }
}

fn project(cuda: &Cuda, p: &Problem, t: &Tiling, o: &Operands, touches: &[Touched]) -> Result<()> {
    let maps = Maps { cuda, p };
    let right = if p.pass == Pass::Forward {
        maps.matrix(Matrix::dense("right", o.right, [p.n, p.k]), [t.cols as u32, 64])?
    } else {
        maps.matrix(Matrix::dense("right", o.right, [p.k, p.n]), [64, 32])?
    };
    let args = ProjectArgs {
        left: maps.matrix(Matrix::dense("left", o.left, [p.m, p.k]), [t.rows as u32, 64])?,
        right,
        bias: o.bias,
        out: o.out,
        alpha: o.alpha,
        m: int(p.m)?,
        n: int(p.n)?,
        k_slabs: int(p.k.div_ceil(SLAB))?,
        accumulate: i32::from(o.accumulate),
        unused: [0; 7],
    };
    let kernel = cuda.kernel::<ProjectArgs>("linear", t.symbol(p))?;
    let tiles = p.m.div_ceil(t.rows);
    let (tile, ranges) = ([t.rows, t.cols], CLUSTER);
    let cut = Cut { family: t.family, tile, tiles, sharing: 1, ranges, parts: 0 };
    let (blocks, kernel) = (tiles * CLUSTER, kernel.taking(cut.effort(p, o, p.n)));
    cuda.launch(&kernel, [blocks as u64, 1, 1], &args, touches)
}

fn grad(
    cuda: &Cuda,
    p: &Problem,
    t: &Tiling,
    o: &Operands,
    scratch: u64,
    touches: &[Touched],
) -> Result<()> {
    let maps = Maps { cuda, p };
    let (left, right) = (p.left_rows("left", o.left), p.right_rows("right", o.right));
    let (wide, narrow) = if p.m < p.n { (right, left) } else { (left, right) };
    let ranges = t.ranges(p);
    let args = GradArgs {
        wide: maps.matrix(wide, [64, 64])?,
        narrow: maps.matrix(narrow, [64, 32])?,
        parts: scratch,
        slabs: int(p.k.div_ceil(SLAB))?,
        wide_cols: int(wide.columns)?,
        narrow_cols: int(narrow.columns)?,
        unused: [0; 11],
    };
    let kernel = cuda.kernel::<GradArgs>("linear", t.symbol(p))?;
    let tiles = wide.columns.div_ceil(WIDE_COLS);
    let (tile, parts) = ([WIDE_COLS, t.cols], ranges * p.m * p.n * 4);
    let cut = Cut { family: t.family, tile, tiles, sharing: 1, ranges, parts };
    let kernel = kernel.taking(cut.effort(p, o, 0)); // the sum below writes the result
    cuda.launch(&kernel, [tiles as u64, ranges as u64, 1], &args, touches)?;
    sums::reduce(cuda, p, (&p.args(o, ranges, scratch)?, ranges), touches)
}
