//! Sums beside the products: partial sums added in order, column sums.

use super::{
    effort::reduction,
    problem::{Args, Operands, Pass, Problem, int},
};
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::variant::by_dtype,
    tensor::DType,
};

/// Adds the partial sums in order and writes the result.
pub(super) fn reduce(
    cuda: &Cuda,
    p: &Problem,
    (args, ranges): (&Args, usize),
    touches: &[Touched],
) -> Result<()> {
    let symbol =
        by_dtype(p.dtype, ["linear_reduce_f32", "linear_reduce_bf16", "linear_reduce_f16"]);
    let kernel = cuda.kernel::<Args>("linear", symbol)?;
    let blocks = ((p.m * p.n) as u64).div_ceil(u64::from(kernel.tile().block_cols));
    let kernel = kernel.taking(reduction(p, blocks, ranges));
    cuda.launch(&kernel, [blocks, 1, 1], args, touches)
}

/// The argument struct of `linear_columns`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ColumnArgs {
    x: u64,
    parts: u64,
    m: i32,
    n: i32,
}

/// Rows one block of `linear_columns` adds; its tile's `block_rows`.
const COLUMN_ROWS: usize = 256;

/// Scratch of [`column_sums`].
pub(crate) fn column_scratch_bytes(rows: usize, n: usize) -> usize {
    rows.div_ceil(COLUMN_ROWS).saturating_mul(n).saturating_mul(4)
}

/// `out[n] (+)= sum_i x[i, n]`, the gradient of a bias.
///
/// # Errors
/// As [`Problem::run`].
pub(crate) fn column_sums(
    cuda: &Cuda,
    dtype: DType,
    (x, rows, n): (u64, usize, usize),
    (out, accumulate): (u64, bool),
    scratch: u64,
) -> Result<()> {
    if n == 0 {
        return Ok(());
    }
    let chunks = rows.div_ceil(COLUMN_ROWS);
    let size = dtype.size_bytes();
    let bytes = column_scratch_bytes(rows, n);
    let parts = Touched { what: "partial sums", address: scratch, bytes };
    if chunks > 0 {
        let symbol =
            by_dtype(dtype, ["linear_columns_f32", "linear_columns_bf16", "linear_columns_f16"]);
        let kernel = cuda.kernel::<ColumnArgs>("linear", symbol)?;
        let blocks = (n as u64).div_ceil(u64::from(kernel.tile().block_cols));
        let args = ColumnArgs { x, parts: scratch, m: int(rows)?, n: int(n)? };
        let touches = [Touched { what: "x", address: x, bytes: rows * n * size }, parts];
        cuda.launch(&kernel, [blocks, chunks as u64, 1], &args, &touches)?;
    }
    let one = Problem::dense(Pass::Weight, dtype, [1, n, rows], 0);
    let args = one.args(&Operands { accumulate, ..Operands::new(0, 0, out) }, chunks, scratch)?;
    let touches = [Touched { what: "gradient", address: out, bytes: n * size }];
    reduce(cuda, &one, (&args, chunks), &touches)
}
