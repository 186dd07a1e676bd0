//! Launches of the Hopper products with a narrow side: an adapter's.

use super::{
    effort::Cut,
    problem::{Operands, Parts, Pass, Problem, int},
    tensor::{Maps, Matrix, SLAB},
    tilings::{NARROW_PAIRS, Tiling},
};
use crate::{
    device::{Cuda, Effort, TensorMap, Touched},
    error::Result,
    kernels::variant::by_dtype,
};

/// Blocks that share a tile of `project`, each with its part of the sum.
pub(super) const CLUSTER: usize = 4;
/// The same of `grad`, for predictions; a launch takes its kernel's.
pub(super) const GRAD_CLUSTER: usize = 8;
/// Blocks of `grad` that a multiprocessor holds.
pub(super) const GRAD_RESIDENT: usize = 2;
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

/// `GradSide` of the same.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradSide {
    wide: TensorMap,
    narrow: TensorMap,
    out: u64,
    alpha: f32,
    accumulate: i32,
    transposed: i32,
    wide_cols: i32,
    narrow_cols: i32,
    rows: i32,
    tiles: i32,
    unused: [u32; 7],
}

/// `GradArgs` of the same.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradArgs {
    sides: [GradSide; 2],
    first: i32,
    unused: [u32; 15],
}

/// A weight gradient with a narrow side: `out_p [M, N] = left_p^T right_p`, one part behind the other as `left` is; the
/// columns of `right` lie beside each other. Several parts only with the narrow side on the right.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    /// The products.
    pub parts: Parts,
    /// Their operands.
    pub o: &'a Operands,
    /// The kernel with enough columns.
    pub tiling: &'static Tiling,
}

/// What the products read and write: every operand is there for each part.
fn touches(parts: &Parts, o: &Operands) -> Vec<Touched> {
    let (p, count) = (&parts.one, parts.count);
    let (left, right) = match p.pass {
        Pass::Weight => (count * p.left_pitch * p.k, p.right_pitch * p.k),
        _ => (count * p.m * p.k, count * p.k * p.n),
    };
    let bias = if o.bias == 0 { 0 } else { p.n };
    let out = count * p.m * p.n;
    let all = [("left", o.left, left), ("right", o.right, right), ("bias", o.bias, bias)];
    let all = all.into_iter().chain([("out", o.out, out)]).filter(|(_, _, len)| *len > 0);
    let size = p.dtype.size_bytes();
    all.map(|(what, address, len)| Touched { what, address, bytes: len * size }).collect()
}

/// Launches one product.
///
/// # Errors
/// As [`project`].
pub(super) fn run(cuda: &Cuda, p: &Problem, tiling: &'static Tiling, o: &Operands) -> Result<()> {
    let parts = Parts { one: *p, count: 1 };
    match p.pass {
        Pass::Weight => grad(cuda, &Side { parts, o, tiling }, None),
        _ => project(cuda, &parts, tiling, o),
    }
}

/// `out [M, count N]`: every part's `left_p right_p` beside the others', of operands one part behind the other. Several
/// parts only with [`Pass::Input`].
///
/// # Errors
/// Those of the maps and the launch.
pub(super) fn project(cuda: &Cuda, parts: &Parts, t: &Tiling, o: &Operands) -> Result<()> {
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
    cuda.launch(&kernel.taking(effort), grid, &args, &touches(parts, o))
}

/// The kernel of one side or of two, the wider first: its variant's name and its symbols by element type.
pub(super) fn grad_kernel(wide: &Tiling, other: &Tiling) -> (&'static str, [&'static str; 3]) {
    let two = NARROW_PAIRS.into_iter().find(|(cols, ..)| *cols == [wide.cols, other.cols]);
    two.map_or((wide.name, wide.symbols[2]), |(_, name, symbols)| (name, symbols))
}

/// Launches one weight gradient, or two as one launch, the one with more columns first.
///
/// # Errors
/// As [`project`].
pub(super) fn grad(cuda: &Cuda, first: &Side<'_>, second: Option<&Side<'_>>) -> Result<()> {
    let other = second.unwrap_or(first);
    let (_, symbols) = grad_kernel(first.tiling, other.tiling);
    let args = GradArgs {
        sides: [first.args(cuda)?, other.args(cuda)?],
        first: int(first.tiles())?,
        unused: [0; 15],
    };
    let kernel = cuda.kernel::<GradArgs>("linear", by_dtype(first.parts.one.dtype, symbols))?;
    let cluster = kernel.tile().cluster as usize;
    let (mut tiles, mut effort) = (first.tiles(), first.effort(cluster));
    let mut touched = touches(&first.parts, first.o);
    if let Some(side) = second {
        tiles += side.tiles();
        effort = effort.beside(side.effort(cluster));
        touched.extend(touches(&side.parts, side.o));
    }
    let grid = [(tiles * cluster) as u64, 1, 1];
    cuda.launch(&kernel.taking(effort), grid, &args, &touched)
}

impl Side<'_> {
    /// The wide operand and the narrow one.
    fn operands(&self) -> (Matrix, Matrix) {
        let (p, count) = (&self.parts.one, self.parts.count);
        let (left, right) = (p.left_rows("left", self.o.left), p.right_rows("right", self.o.right));
        let (wide, narrow) = if p.m < p.n { (right, left) } else { (left, right) };
        let wide = Matrix { rows: count * wide.rows, ..wide };
        (wide, Matrix { columns: count * narrow.columns, ..narrow })
    }

    /// Tiles of the wide columns of one part.
    fn part_tiles(&self) -> usize {
        self.parts.one.m.max(self.parts.one.n).div_ceil(WIDE_COLS)
    }

    fn tiles(&self) -> usize {
        self.parts.count * self.part_tiles()
    }

    fn args(&self, cuda: &Cuda) -> Result<GradSide> {
        let (p, (wide, narrow)) = (&self.parts.one, self.operands());
        let maps = Maps { cuda, p };
        Ok(GradSide {
            wide: maps.matrix(wide, [64, 64])?,
            narrow: maps.matrix(narrow, [64, 32])?,
            out: self.o.out,
            alpha: self.o.alpha,
            accumulate: i32::from(self.o.accumulate),
            transposed: i32::from(p.m < p.n),
            wide_cols: int(p.m.max(p.n))?,
            narrow_cols: int(p.m.min(p.n))?,
            rows: int(p.k)?,
            tiles: int(self.part_tiles())?,
            unused: [0; 7],
        })
    }

    /// What it takes; the `ranges` blocks of a cluster read each other's sums once.
    fn effort(&self, ranges: usize) -> Effort {
        let (family, tile) = (self.tiling.family, [WIDE_COLS, self.tiling.cols]);
        let tiles = self.tiles();
        let cut = Cut { family, tile, tiles, sharing: 1, ranges, parts: 0 };
        let p = &self.parts.one;
        let mut effort = cut.effort(p, self.o, p.n);
        effort.bytes *= self.parts.count as f64;
        effort.reads += (4 * tiles * (ranges - 1) * tile[0] * tile[1]) as f64;
        effort
    }
}
