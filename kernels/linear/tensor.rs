//! Launches of the Hopper products: tensor maps, units of work, counters.

use super::{
    effort::Cut,
    problem::{Operands, Pass, Problem, int},
    tilings::Tiling,
};
use crate::{
    device::{Cuda, TensorMap, TensorMapSpec, Touched},
    error::Result,
};

/// The argument struct of `gemm/problem_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct TensorArgs {
    pub left: TensorMap,
    right: TensorMap,
    pub t: TensorMap,
    l: TensorMap,
    pub out: TensorMap,
    pub residual: TensorMap,
    bias: u64,
    parts: u64,
    counters: u64,
    n: i32,
    pub k_slabs: i32,
    rank: i32,
    has_residual: i32,
    tiles_m: i32,
    pub tiles_n: i32,
    pub splits: i32,
    alpha: f32,
    unused: [u32; 2],
}

impl TensorArgs {
    /// Where its partial sums lie.
    pub fn scratch(&self) -> u64 {
        self.parts
    }
}

/// `kSlab`: depth of a slab.
pub(super) const SLAB: usize = 64;
/// Blocks of a cluster, along M.
pub(super) const CLUSTER: usize = 2;
/// `kConsumers`: warpgroups that may join a tile's ranges apart.
pub(super) const CONSUMERS: usize = 2;
/// `kStoreRows`: rows of an output box.
const STORE_ROWS: u32 = 16;

/// How the units of a product lie over the grid.
pub(super) struct Raster {
    /// Clusters of tiles along M.
    pub tiles_m: usize,
    /// Tiles along N.
    pub tiles_n: usize,
    /// Ranges of the sum.
    pub ranges: usize,
}

impl Raster {
    pub fn new(p: &Problem, t: &Tiling) -> Self {
        Self {
            tiles_m: p.m.div_ceil(t.rows * CLUSTER),
            tiles_n: p.n.div_ceil(t.cols),
            ranges: t.ranges(p),
        }
    }

    pub fn tiles(&self) -> usize {
        self.tiles_m.saturating_mul(CLUSTER).saturating_mul(self.tiles_n)
    }

    pub fn cut(&self, t: &Tiling) -> Cut {
        let (tile, parts) = ([t.rows, t.cols], 2 * self.parts_bytes(t)); // written, then read
        let (tiles, ranges) = (self.tiles(), self.ranges);
        Cut { family: t.family, tile, tiles, sharing: CLUSTER, ranges, parts }
    }

    /// Bytes of the partial sums: the last range keeps its own.
    pub fn parts_bytes(&self, t: &Tiling) -> usize {
        self.tiles().saturating_mul(t.rows * t.cols * 4).saturating_mul(self.ranges - 1)
    }
}

/// Scratch of a product that is cut into ranges.
pub(super) fn scratch_bytes(p: &Problem, t: &Tiling) -> usize {
    Raster::new(p, t).parts_bytes(t)
}

/// A row-major matrix on the device.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub what: &'static str,
    pub address: u64,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one row to the next.
    pub pitch: usize,
}

impl Matrix {
    pub fn dense(what: &'static str, address: u64, [rows, columns]: [usize; 2]) -> Self {
        Self { what, address, rows, columns, pitch: columns }
    }
}

/// Encodes the maps of one product.
pub(super) struct Maps<'a> {
    pub cuda: &'a Cuda,
    pub p: &'a Problem,
}

impl Maps<'_> {
    /// A matrix in boxes of `block` (rows, columns); a box's columns are one swizzle row.
    pub fn matrix(&self, m: Matrix, block: [u32; 2]) -> Result<TensorMap> {
        let size = self.p.dtype.size_bytes();
        self.cuda.tensor_map(&TensorMapSpec {
            what: m.what,
            address: m.address,
            dtype: self.p.dtype,
            dims: vec![m.columns as u64, m.rows as u64],
            strides: vec![(m.pitch * size) as u64],
            block: vec![block[1], block[0]],
            swizzle: block[1] * size as u32,
        })
    }

    /// A left operand with `k` steps of the sum.
    fn left(&self, what: &'static str, at: u64, k: usize, t: &Tiling) -> Result<TensorMap> {
        match self.p.pass {
            Pass::Weight => self.matrix(self.p.left_rows(what, at), [64, 64]),
            _ => self.matrix(Matrix::dense(what, at, [self.p.m, k]), [t.rows as u32, 64]),
        }
    }

    /// A weight, or some of its columns.
    fn weight(&self, what: &'static str, address: u64, extents: [usize; 2]) -> Matrix {
        let dense = Matrix::dense(what, address, extents);
        if self.p.weight_pitch == 0 {
            dense
        } else {
            Matrix { pitch: self.p.weight_pitch, ..dense }
        }
    }

    /// A right operand; every block of a cluster brings its share of a slab.
    pub fn right(&self, what: &'static str, at: u64, k: usize, t: &Tiling) -> Result<TensorMap> {
        let atom = if t.cols.is_multiple_of(64) { 64 } else { 32 };
        let (n, share) = (self.p.n, (t.cols / CLUSTER) as u32);
        match self.p.pass {
            Pass::Forward => self.matrix(self.weight(what, at, [n, k]), [share, 64]),
            Pass::Input => self.matrix(self.weight(what, at, [k, n]), [64, atom]),
            Pass::Weight => self.matrix(self.p.right_rows(what, at), [64, atom]),
        }
    }
}

impl Maps<'_> {
    /// A result of `columns`, or what is added to it.
    pub fn result(
        &self,
        what: &'static str,
        at: u64,
        columns: usize,
        t: &Tiling,
    ) -> Result<TensorMap> {
        self.result_of(Matrix::dense(what, at, [self.p.m, columns]), t)
    }

    /// The result `m`, or what is added to it.
    pub fn result_of(&self, m: Matrix, t: &Tiling) -> Result<TensorMap> {
        self.matrix(m, [STORE_ROWS, if t.cols.is_multiple_of(64) { 64 } else { 32 }])
    }
}

impl Problem {
    /// The left operand of a weight gradient, `[K, M]`.
    pub(super) fn left_rows(&self, what: &'static str, address: u64) -> Matrix {
        Matrix { what, address, rows: self.k, columns: self.m, pitch: self.left_pitch }
    }

    /// The right operand of a weight gradient, `[K, N]`.
    pub(super) fn right_rows(&self, what: &'static str, address: u64) -> Matrix {
        Matrix { what, address, rows: self.k, columns: self.n, pitch: self.right_pitch }
    }
}

/// What a fused kernel does to the sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fused {
    /// GEGLU: `n / 2` columns come out.
    pub gated: bool,
    /// Otherwise the number of the activation.
    pub activation: i32,
}

/// `FusedArgs` of `gemm/fused_sm90.cuh`.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FusedArgs {
    product: TensorArgs,
    activation: i32,
    unused: [u32; 15],
}

/// Launches one product; `scratch` has at least [`scratch_bytes`].
///
/// # Errors
/// Those of the maps and the launch.
pub(super) fn run(
    cuda: &Cuda,
    p: &Problem,
    t: &Tiling,
    o: &Operands,
    scratch: u64,
    touches: &[Touched],
) -> Result<()> {
    let args = args(cuda, p, t, o, scratch, p.n)?;
    let kernel = cuda.kernel::<TensorArgs>("linear", t.symbol(p))?;
    let kernel = kernel.taking(Raster::new(p, t).cut(t).effort(p, o, p.n));
    let touches = [touches, &[counters(cuda, &args)]].concat();
    cuda.launch(&kernel, cuda.persistent_grid(&kernel, units(&args))?, &args, &touches)
}

/// Launches one fused layer, forward only.
///
/// # Errors
/// As [`run`].
pub(super) fn run_fused(
    cuda: &Cuda,
    p: &Problem,
    t: &Tiling,
    o: &Operands,
    scratch: u64,
    after: Fused,
) -> Result<()> {
    let columns = if after.gated { p.n / 2 } else { p.n };
    let product = args(cuda, p, t, o, scratch, columns)?;
    let args = FusedArgs { product, activation: after.activation, unused: [0; 15] };
    let kernel = cuda.kernel::<FusedArgs>("linear", t.symbol(p))?;
    let kernel = kernel.taking(Raster::new(p, t).cut(t).effort(p, o, columns));
    // of the result and the residual only the columns that come out
    let mut touches = p.touches(o, 0);
    touches.retain(|t| t.address != o.out && t.address != o.residual && t.address != 0);
    let bytes = p.m * columns * p.dtype.size_bytes();
    touches.push(Touched { what: "out", address: o.out, bytes });
    if o.residual != 0 {
        touches.push(Touched { what: "residual", address: o.residual, bytes });
    }
    touches.push(counters(cuda, &product));
    cuda.launch(&kernel, cuda.persistent_grid(&kernel, units(&product))?, &args, &touches)
}

/// Units of work.
pub(super) fn units(args: &TensorArgs) -> u64 {
    args.tiles_m as u64 * args.tiles_n as u64 * args.splits as u64
}

/// Words that the ranges of so many tiles are counted in.
pub(super) fn counter_words(tiles: usize, ranges: usize) -> usize {
    if ranges == 1 { 0 } else { tiles * CONSUMERS }
}

/// The words that the ranges of a product are counted in.
pub(super) fn counters(cuda: &Cuda, args: &TensorArgs) -> Touched {
    let tiles = CLUSTER * args.tiles_m as usize * args.tiles_n as usize;
    let words = counter_words(tiles, args.splits as usize);
    Touched { what: "counters", address: cuda.counters(), bytes: words * 4 }
}

/// The arguments of one product whose result has `columns`.
pub(super) fn args(
    cuda: &Cuda,
    p: &Problem,
    t: &Tiling,
    o: &Operands,
    scratch: u64,
    columns: usize,
) -> Result<TensorArgs> {
    let raster = Raster::new(p, t);
    let maps = Maps { cuda, p };
    let none = TensorMap::default();
    let result = |what, at| maps.result(what, at, columns, t);
    let out = result("out", o.out)?;
    let residual = match (o.accumulate, o.residual) {
        (true, _) => out,
        (false, 0) => none,
        (false, at) => result("residual", at)?,
    };
    Ok(TensorArgs {
        left: maps.left("left", o.left, p.k, t)?,
        right: maps.right("right", o.right, p.k, t)?,
        t: if p.rank > 0 { maps.left("adapter left", o.t, p.rank, t)? } else { none },
        l: if p.rank > 0 { maps.right("adapter right", o.l, p.rank, t)? } else { none },
        out,
        residual,
        bias: o.bias,
        parts: scratch,
        counters: cuda.counters(),
        n: int(p.n)?,
        k_slabs: int(p.k.div_ceil(SLAB))?,
        rank: int(p.rank)?,
        has_residual: i32::from(o.accumulate || o.residual != 0),
        tiles_m: int(raster.tiles_m)?,
        tiles_n: int(raster.tiles_n)?,
        splits: int(raster.ranges)?,
        alpha: o.alpha,
        unused: [0; 2],
    })
}
