//! Launches of `conv2d_sums.cu`: the second stage of the weight gradient, and the bias gradient.

use super::{super::shape::Shape, problem::int};
use crate::{
    device::{Cuda, Touched},
    error::{Error, Result},
    kernels::variant::by_dtype,
    op::{Backward, Grad, GradMode},
    tensor::Spec,
};

const REDUCE: [&str; 3] = ["conv2d_reduce_f32", "conv2d_reduce_bf16", "conv2d_reduce_f16"];
const COLUMNS: [&str; 3] = ["conv2d_columns_f32", "conv2d_columns_bf16", "conv2d_columns_f16"];
/// Most ranges of the bias gradient: with 320 channels 10 x 64 blocks, five a multiprocessor.
const MOST_RANGES: usize = 64;
/// Fewest pixels that are worth a range of their own.
const LEAST_PIXELS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ReduceArgs {
    partial: u64,
    out: u64,
    len: i64,
    ranges: i32,
    accumulate: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ColumnArgs {
    dy: u64,
    partial: u64,
    pixels: i64,
    channels: i32,
    range: i32,
}

/// How the pixels of a sum are cut: pixels of a range, ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ranges {
    pub pixels: usize,
    pub count: usize,
}

impl Ranges {
    /// About `want` ranges of a multiple of `step` pixels; at least one range, also of no pixels.
    pub fn new(pixels: usize, want: usize, step: usize) -> Self {
        let each = pixels.div_ceil(want.max(1)).next_multiple_of(step).max(step);
        Self { pixels: each, count: pixels.div_ceil(each).max(1) }
    }
}

/// Where f32 partial sums lie: the start of the scratch, which must hold `floats` of them.
pub(super) fn partials(io: &Backward<'_>, floats: usize) -> Result<Touched> {
    let (have, bytes) = (io.scratch.bytes(), floats.saturating_mul(4));
    if bytes > have {
        let problem = format!("{bytes} bytes of partial sums in {have} bytes of scratch");
        return Err(Error::Plan { at: "conv2d backward".into(), problem });
    }
    Ok(Touched { what: "partial sums", address: io.scratch.address(), bytes })
}

/// Adds `ranges` partial results of the gradient's shape in order and stores them as its mode asks.
pub(super) fn reduce(
    cuda: &Cuda,
    partial: Touched,
    ranges: usize,
    grad: &Grad<'_>,
    spec: &Spec,
) -> Result<()> {
    let kernel = cuda.kernel::<ReduceArgs>("conv2d", by_dtype(spec.dtype, REDUCE))?;
    let len = spec.len();
    let args = ReduceArgs {
        partial: partial.address,
        out: grad.buf.address(),
        len: i64::try_from(len).unwrap_or(i64::MAX),
        ranges: int(ranges)?,
        accumulate: i32::from(grad.mode == GradMode::Accumulate),
    };
    let grid = [(len as u64).div_ceil(u64::from(kernel.tile().block_cols)), 1, 1];
    cuda.launch(&kernel, grid, &args, &[partial, Touched::new("gradient", args.out, spec)])
}

fn column_ranges(s: &Shape) -> Ranges {
    let want = s.outputs().div_ceil(LEAST_PIXELS).min(MOST_RANGES);
    Ranges::new(s.outputs(), want, LEAST_PIXELS)
}

/// Partial sums of the bias gradient, bytes.
pub(super) fn columns_scratch(s: &Shape) -> usize {
    column_ranges(s).count.saturating_mul(s.o).saturating_mul(4)
}

/// `db = sum dy`.
pub(super) fn bias(s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let ranges = column_ranges(s);
    let dtype = io.out_spec.dtype;
    let kernel = cuda.kernel::<ColumnArgs>("conv2d", by_dtype(dtype, COLUMNS))?;
    let partial = partials(io, ranges.count * s.o)?;
    let args = ColumnArgs {
        dy: io.d_out.address(),
        partial: partial.address,
        pixels: i64::try_from(s.outputs()).unwrap_or(i64::MAX),
        channels: int(s.o)?,
        range: int(ranges.pixels)?,
    };
    let tiles = (s.o as u64).div_ceil(u64::from(kernel.tile().block_cols));
    let touches = [Touched::new("dy", args.dy, io.out_spec), partial];
    cuda.launch(&kernel, [tiles, ranges.count as u64, 1], &args, &touches)?;
    reduce(cuda, partial, ranges.count, &io.d_ins[2], &io.specs[2])
}
