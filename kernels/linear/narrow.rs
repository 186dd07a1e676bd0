//! Launches of the Hopper products with a narrow side: an adapter's.

use super::{
    effort::Cut,
    problem::{Operands, Parts, Pass, Problem, int},
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
    pitch: i32,
    depth: i32,
    unused: [u32; 5],
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
    rows: i32,
    unused: [u32; 10],
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
    let parts = Parts { one: *p, count: 1 };
    match p.pass {
        Pass::Weight => grad(cuda, &parts, t, o, (scratch, touches)),
        _ => project(cuda, &parts, t, o, touches),
    }
}

/// `out [M, count N]`: every part's `left_p right_p` beside the others', of operands one part behind the other. Several
/// parts only with [`Pass::Input`].
pub(super) fn project(
    cuda: &Cuda,
    parts: &Parts,
    t: &Tiling,
    o: &Operands,
    touches: &[Touched],
) -> Result<()> {
    let (p, count) = (&parts.one, parts.count);
    let maps = Maps { cuda, p };
    let right = if p.pass == Pass::Forward {
        maps.matrix(Matrix::dense("right", o.right, [p.n, p.k]), [t.cols as u32, 64])?
    } else {
        maps.matrix(Matrix::dense("right", o.right, [count * p.k, p.n]), [64, 32])?
    };
    let left = Matrix::dense("left", o.left, [count * p.m, p.k]);
    let args = ProjectArgs {
        left: maps.matrix(left, [t.rows as u32, 64])?,
        right,
        bias: o.bias,
        out: o.out,
        alpha: o.alpha,
        m: int(p.m)?,
        n: int(p.n)?,
        k_slabs: int(p.k.div_ceil(SLAB))?,
        accumulate: i32::from(o.accumulate),
        pitch: int(count * p.n)?,
        depth: int(p.k)?,
        unused: [0; 5],
    };
    let kernel = cuda.kernel::<ProjectArgs>("linear", t.symbol(p))?;
    let tiles = p.m.div_ceil(t.rows);
    let (tile, ranges) = ([t.rows, t.cols], CLUSTER);
    let cut = Cut { family: t.family, tile, tiles: count * tiles, sharing: 1, ranges, parts: 0 };
    let mut effort = cut.effort(p, o, p.n);
    effort.bytes *= count as f64;
    let grid = [(tiles * CLUSTER) as u64, count as u64, 1];
    cuda.launch(&kernel.taking(effort), grid, &args, touches)
}

/// `out_p [M, N] = left_p^T right_p`, one part behind the other as `left` is; the columns of `right` lie beside each other.
/// Several parts only with the narrow side on the right.
pub(super) fn grad(
    cuda: &Cuda,
    parts: &Parts,
    t: &Tiling,
    o: &Operands,
    (scratch, touches): (u64, &[Touched]),
) -> Result<()> {
    let (p, count) = (&parts.one, parts.count);
    let maps = Maps { cuda, p };
    let (left, right) = (p.left_rows("left", o.left), p.right_rows("right", o.right));
    let (wide, narrow) = if p.m < p.n { (right, left) } else { (left, right) };
    let ranges = t.ranges(p);
    let args = GradArgs {
        wide: maps.matrix(Matrix { rows: count * wide.rows, ..wide }, [64, 64])?,
        narrow: maps.matrix(Matrix { columns: count * narrow.columns, ..narrow }, [64, 32])?,
        parts: scratch,
        slabs: int(p.k.div_ceil(SLAB))?,
        wide_cols: int(wide.columns)?,
        narrow_cols: int(narrow.columns)?,
        rows: int(p.k)?,
        unused: [0; 10],
    };
    let kernel = cuda.kernel::<GradArgs>("linear", t.symbol(p))?;
    let tiles = wide.columns.div_ceil(WIDE_COLS);
    let all = Problem { m: count * p.m, left_pitch: count * p.m, ..*p };
    let (tile, sums) = ([WIDE_COLS, t.cols], ranges * all.m * p.n * 4);
    let cut = Cut { family: t.family, tile, tiles: count * tiles, sharing: 1, ranges, parts: sums };
    // the sum below writes the result
    let mut effort = cut.effort(p, o, 0);
    effort.bytes *= count as f64;
    let grid = [tiles as u64, ranges as u64, count as u64];
    cuda.launch(&kernel.taking(effort), grid, &args, touches)?;
    let one = if count > 1 { all } else { *p };
    sums::reduce(cuda, &one, (&one.args(o, ranges, scratch)?, ranges), touches)
}
