//! What a matrix product is: its extents, its operands, the argument struct of the kernels that tile it.

use crate::{
    device::{Touched, cubin_table::Target},
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

impl Pass {
    /// Its row in a table of symbols.
    pub(super) fn row(self) -> usize {
        match self {
            Pass::Forward => 0,
            Pass::Input => 1,
            Pass::Weight => 2,
        }
    }
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
    /// Elements from one row of `right`, and of the adapter's, to the next where they are columns of one wider matrix;
    /// 0 where each is dense. Of `Forward` and `Input` by tensor maps only.
    pub weight_pitch: usize,
}

/// Layers of one shape on one input; `parts.rs` launches them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    /// One of them; of an input gradient its rank is that of all adapters together.
    pub one: Problem,
    /// How many.
    pub count: usize,
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

/// A problem on a chip: what the variants are chosen by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnChip {
    /// The product.
    pub problem: Problem,
    /// What the chip's kernels were compiled for.
    pub target: Target,
}

impl Problem {
    /// All operands dense.
    pub fn dense(pass: Pass, dtype: DType, [m, n, k]: [usize; 3], rank: usize) -> Self {
        let (left_pitch, right_pitch, residual, weight_pitch) = (m, n, false, 0);
        Self { pass, dtype, m, n, k, rank, left_pitch, right_pitch, residual, weight_pitch }
    }

    /// The same with `right` and the adapter's right operand as columns of a matrix that has `pitch`.
    pub fn within(self, weight_pitch: usize) -> Self {
        Self { weight_pitch, ..self }
    }

    /// Elements that a right operand with `depth` steps of the sum spans.
    fn right_span(&self, depth: usize) -> usize {
        let [rows, columns, pitch] = match self.pass {
            Pass::Forward => [self.n, depth, depth],
            Pass::Input => [depth, self.n, self.n],
            Pass::Weight => [depth, self.right_pitch, self.right_pitch],
        };
        let pitch = if self.weight_pitch > 0 { self.weight_pitch } else { pitch };
        if rows == 0 { 0 } else { (rows - 1) * pitch + columns }
    }

    /// The same, with or without a residual.
    pub fn with_residual(self, residual: bool) -> Self {
        Self { residual, ..self }
    }

    pub(super) fn touches(&self, o: &Operands, scratch: u64) -> Vec<Touched> {
        let size = self.dtype.size_bytes();
        let wide = |n: usize, pitch: usize| if self.pass == Pass::Weight { pitch } else { n };
        let all = [
            ("left", o.left, wide(self.m, self.left_pitch) * self.k * size),
            ("right", o.right, self.right_span(self.k) * size),
            ("adapter left", o.t, self.m * self.rank * size),
            (
                "adapter right",
                o.l,
                if self.rank == 0 { 0 } else { self.right_span(self.rank) * size },
            ),
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
}

pub(super) fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "linear",
        key: format!("an extent of {n}"),
        tried: "32-bit extents".into(),
    })
}
