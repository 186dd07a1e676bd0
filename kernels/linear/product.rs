//! One matrix product on a GPU: operands, scratch, launches.
//!
//! Linear layers with and without adapters are made of these; nothing else launches a product.

use super::{
    narrow, sums, tensor, tiles,
    tilings::{Family, Tiling},
};
use crate::{
    device::{Cuda, Touched},
    error::{Error, Result},
    tensor::DType,
};

/// How the operands of `out [M, N] = left right` lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// `left [M, K]`, `right [N, K]`: `y = x w^T`.
    Forward,
    /// `left [M, K]`, `right [K, N]`: `dx = dy w`.
    Input,
    /// `left [K, M]`, `right [K, N]`: `dw = dy^T x`.
    Weight,
}

/// What a product's kernel is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub pass: Pass,
    pub dtype: DType,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    /// Rank of the adapter, 0 without one.
    pub rank: usize,
    /// Elements from one row of `left [K, M]` to the next; used by `Weight` only.
    pub left_pitch: usize,
    /// Elements from one row of `right [K, N]` to the next; used by `Weight` only.
    pub right_pitch: usize,
    /// Whether a tensor of the result's shape is added.
    pub residual: bool,
}

/// The operands of one product, device addresses; 0 where there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub left: u64,
    pub right: u64,
    /// The adapter's left operand, `[M, rank]`.
    pub t: u64,
    /// The adapter's right operand; it lies as `right` does.
    pub l: u64,
    pub bias: u64,
    /// Added to the result, `[M, N]`.
    pub residual: u64,
    pub out: u64,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether to add to the old content of `out`.
    pub accumulate: bool,
}

impl Operands {
    /// No adapter, no bias, factor 1, old content overwritten.
    pub fn new(left: u64, right: u64, out: u64) -> Self {
        Self { left, right, t: 0, l: 0, bias: 0, residual: 0, out, alpha: 1.0, accumulate: false }
    }
}

/// The argument struct of `gemm/product.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Args {
    left: u64,
    right: u64,
    t: u64,
    l: u64,
    bias: u64,
    residual: u64,
    out: u64,
    parts: u64,
    alpha: f32,
    m: i32,
    n: i32,
    k: i32,
    rank: i32,
    splits: i32,
    accumulate: i32,
    left_pitch: i32,
    right_pitch: i32,
    unused: i32,
}

impl Problem {
    /// All operands dense.
    pub fn dense(pass: Pass, dtype: DType, [m, n, k]: [usize; 3], rank: usize) -> Self {
        Self { pass, dtype, m, n, k, rank, left_pitch: m, right_pitch: n, residual: false }
    }

    /// The same, with or without a residual.
    pub fn with_residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }

    /// Scratch of one product, whatever variant computes it.
    pub fn scratch_bytes(&self) -> usize {
        tiles::scratch_bytes(self)
    }

    /// The chosen variant and its ranges, for the printed plan.
    pub fn describe(&self, cuda: &Cuda) -> String {
        match tiles::tiling(cuda, self) {
            Ok(t) if t.ranges(self) > 1 => format!("{} split {}", t.name, t.ranges(self)),
            Ok(t) => t.name.into(),
            Err(_) => "none".into(),
        }
    }

    pub(super) fn touches(&self, o: &Operands, scratch: u64) -> Vec<Touched> {
        let size = self.dtype.size_bytes();
        let wide = |n: usize, pitch: usize| if self.pass == Pass::Weight { pitch } else { n };
        let all = [
            ("left", o.left, wide(self.m, self.left_pitch) * self.k * size),
            ("right", o.right, wide(self.n, self.right_pitch) * self.k * size),
            ("adapter left", o.t, self.m * self.rank * size),
            ("adapter right", o.l, self.n * self.rank * size),
            ("bias", o.bias, if o.bias == 0 { 0 } else { self.n * size }),
            ("residual", o.residual, if o.residual == 0 { 0 } else { self.m * self.n * size }),
            ("out", o.out, self.m * self.n * size),
            ("partial sums", scratch, self.scratch_bytes()),
        ];
        let used = all.into_iter().filter(|(_, _, bytes)| *bytes > 0);
        used.map(|(what, address, bytes)| Touched { what, address, bytes }).collect()
    }

    pub(super) fn args(&self, o: &Operands, ranges: usize, parts: u64) -> Result<Args> {
        Ok(Args {
            left: o.left,
            right: o.right,
            t: o.t,
            l: o.l,
            bias: o.bias,
            residual: o.residual,
            out: o.out,
            parts,
            alpha: o.alpha,
            m: int(self.m)?,
            n: int(self.n)?,
            k: int(self.k)?,
            rank: int(self.rank)?,
            splits: int(ranges)?,
            accumulate: i32::from(o.accumulate),
            left_pitch: int(self.left_pitch)?,
            right_pitch: int(self.right_pitch)?,
            unused: 0,
        })
    }

    /// Launches the product; `scratch` has at least [`Problem::scratch_bytes`].
    ///
    /// # Errors
    /// [`Error::NoKernel`] for extents beyond 32 bits; those of the launch.
    pub fn run(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        if self.m == 0 || self.n == 0 {
            return Ok(());
        }
        let tiling = tiles::tiling(cuda, self)?;
        match tiling.family {
            Family::Narrow => {
                narrow::run(cuda, self, tiling, o, scratch, &self.touches(o, scratch))
            }
            Family::Sm90 => tensor::run(cuda, self, tiling, o, scratch, &self.touches(o, scratch)),
            Family::Simt | Family::Sm80 => self.tiled(cuda, tiling, o, scratch),
        }
    }

    /// One block a tile and range; the ranges are added by a second launch.
    fn tiled(&self, cuda: &Cuda, tiling: &Tiling, o: &Operands, scratch: u64) -> Result<()> {
        let ranges = tiling.ranges(self);
        let args = self.args(o, ranges, scratch)?;
        let touches = self.touches(o, scratch);
        let kernel = cuda.kernel::<Args>("linear", tiling.symbol(self))?;
        let tile = kernel.tile();
        let grid = [
            (self.m as u64).div_ceil(u64::from(tile.block_rows)),
            (self.n as u64).div_ceil(u64::from(tile.block_cols)),
            ranges as u64,
        ];
        cuda.launch(&kernel, grid, &args, &touches)?;
        if ranges > 1 { sums::reduce(cuda, self, &args, &touches) } else { Ok(()) }
    }
}

pub(super) fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "linear",
        key: format!("an extent of {n}"),
        tried: "32-bit extents".into(),
    })
}
