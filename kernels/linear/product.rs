//! One matrix product on a GPU: which kernel, ranges of the sum, scratch, launches.
//!
//! Linear layers with and without adapters are made of these; nothing else launches a product.

use crate::{
    device::{Cuda, Touched},
    error::{Error, Result},
    kernels::variant::{self, Variant, by_dtype},
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
    pub out: u64,
    /// Factor of the sum.
    pub alpha: f32,
    /// Whether to add to the old content of `out`.
    pub accumulate: bool,
}

/// The argument struct of `gemm/product.cuh`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
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
    unused: i32,
}

/// Blocks that fill the largest chip once (132 multiprocessors, 6 blocks each): below, the sum is cut into ranges.
/// A constant, so that every device gives the same bits.
const SIMT_BLOCKS: usize = 792;
const SIMT_TILE: usize = 64;
/// The shortest range of a sum worth a block of its own.
const SHORTEST_RANGE: usize = 128;
const MOST_RANGES: usize = 64;

const VARIANTS: &[Variant<Problem>] = &[Variant { name: "simt", applies: |_| true }];

impl Problem {
    fn slot(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "linear.forward",
            Pass::Input => "linear.input",
            Pass::Weight => "linear.weight",
        }
    }

    fn is_empty(&self) -> bool {
        self.m == 0 || self.n == 0
    }

    /// How many ranges of the sum run at once when tiles of `rows` by `cols` leave room in `blocks`.
    fn ranges(&self, rows: usize, cols: usize, blocks: usize) -> usize {
        let tiles = self.m.div_ceil(rows) * self.n.div_ceil(cols);
        let room = blocks / tiles.max(1);
        room.min(self.k / SHORTEST_RANGE).clamp(1, MOST_RANGES)
    }

    fn simt_ranges(&self) -> usize {
        self.ranges(SIMT_TILE, SIMT_TILE, SIMT_BLOCKS)
    }

    /// Scratch of one product, whatever variant computes it.
    pub fn scratch_bytes(&self) -> usize {
        match self.simt_ranges() {
            1 => 0,
            ranges => ranges.saturating_mul(self.m).saturating_mul(self.n).saturating_mul(4),
        }
    }

    fn choose(&self, cuda: &Cuda) -> Result<&'static Variant<Problem>> {
        variant::choose(cuda, self.slot(), VARIANTS, self)
    }

    /// The chosen variant, for the printed plan.
    pub fn describe(&self, cuda: &Cuda) -> String {
        let ranges = match self.simt_ranges() {
            1 => String::new(),
            n => format!(" x{n}"),
        };
        self.choose(cuda).map_or_else(|_| "none".into(), |v| format!("{}{ranges}", v.name))
    }

    fn simt_symbol(&self) -> &'static str {
        let symbols = match self.pass {
            Pass::Forward => {
                ["linear_forward_simt_f32", "linear_forward_simt_bf16", "linear_forward_simt_f16"]
            }
            Pass::Input => {
                ["linear_input_simt_f32", "linear_input_simt_bf16", "linear_input_simt_f16"]
            }
            Pass::Weight => {
                ["linear_weight_simt_f32", "linear_weight_simt_bf16", "linear_weight_simt_f16"]
            }
        };
        by_dtype(self.dtype, symbols)
    }

    fn touches(&self, o: &Operands, parts: (u64, usize)) -> Vec<Touched> {
        let size = self.dtype.size_bytes();
        let all = [
            ("left", o.left, self.m * self.k * size),
            ("right", o.right, self.n * self.k * size),
            ("adapter left", o.t, self.m * self.rank * size),
            ("adapter right", o.l, self.n * self.rank * size),
            ("bias", o.bias, if o.bias == 0 { 0 } else { self.n * size }),
            ("out", o.out, self.m * self.n * size),
            ("partial sums", parts.0, parts.1),
        ];
        let used = all.into_iter().filter(|(_, _, bytes)| *bytes > 0);
        used.map(|(what, address, bytes)| Touched { what, address, bytes }).collect()
    }

    fn args(&self, o: &Operands, ranges: usize, parts: u64) -> Result<Args> {
        Ok(Args {
            left: o.left,
            right: o.right,
            t: o.t,
            l: o.l,
            bias: o.bias,
            residual: 0,
            out: o.out,
            parts,
            alpha: o.alpha,
            m: int(self.m)?,
            n: int(self.n)?,
            k: int(self.k)?,
            rank: int(self.rank)?,
            splits: int(ranges)?,
            accumulate: i32::from(o.accumulate),
            unused: 0,
        })
    }

    /// Launches the product; `scratch` has at least [`Problem::scratch_bytes`].
    ///
    /// # Errors
    /// [`Error::NoKernel`] for extents beyond 32 bits; those of the launch.
    pub fn run(&self, cuda: &Cuda, o: &Operands, scratch: u64) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        self.choose(cuda)?;
        let ranges = self.simt_ranges();
        let args = self.args(o, ranges, scratch)?;
        let parts = (scratch, self.scratch_bytes());
        let touches = self.touches(o, parts);
        let kernel = cuda.kernel::<Args>("linear", self.simt_symbol())?;
        let tile = kernel.tile();
        let grid = [
            (self.m as u64).div_ceil(u64::from(tile.block_rows)),
            (self.n as u64).div_ceil(u64::from(tile.block_cols)),
            ranges as u64,
        ];
        cuda.launch(&kernel, grid, &args, &touches)?;
        if ranges > 1 { reduce(cuda, self, &args, &touches) } else { Ok(()) }
    }
}

/// Adds the partial sums in order and writes the result.
fn reduce(cuda: &Cuda, p: &Problem, args: &Args, touches: &[Touched]) -> Result<()> {
    let symbol =
        by_dtype(p.dtype, ["linear_reduce_f32", "linear_reduce_bf16", "linear_reduce_f16"]);
    let kernel = cuda.kernel::<Args>("linear", symbol)?;
    let blocks = ((p.m * p.n) as u64).div_ceil(u64::from(kernel.tile().block_cols));
    cuda.launch(&kernel, [blocks, 1, 1], args, touches)
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "linear",
        key: format!("an extent of {n}"),
        tried: "32-bit extents".into(),
    })
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
    let parts =
        Touched { what: "partial sums", address: scratch, bytes: column_scratch_bytes(rows, n) };
    if chunks > 0 {
        let symbol =
            by_dtype(dtype, ["linear_columns_f32", "linear_columns_bf16", "linear_columns_f16"]);
        let kernel = cuda.kernel::<ColumnArgs>("linear", symbol)?;
        let blocks = (n as u64).div_ceil(u64::from(kernel.tile().block_cols));
        let args = ColumnArgs { x, parts: scratch, m: int(rows)?, n: int(n)? };
        let touches = [Touched { what: "x", address: x, bytes: rows * n * size }, parts];
        cuda.launch(&kernel, [blocks, chunks as u64, 1], &args, &touches)?;
    }
    let one = Problem { pass: Pass::Weight, dtype, m: 1, n, k: rows, rank: 0 };
    let o = Operands { left: 0, right: 0, t: 0, l: 0, bias: 0, out, alpha: 1.0, accumulate };
    let args = one.args(&o, chunks, scratch)?;
    let touches = [Touched { what: "gradient", address: out, bytes: n * size }];
    reduce(cuda, &one, &args, &touches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_cut_only_where_tiles_are_few_and_the_sum_is_long() {
        let p = |m, n, k| Problem { pass: Pass::Forward, dtype: DType::F32, m, n, k, rank: 0 };
        assert_eq!(p(4096, 640, 640).simt_ranges(), 1);
        assert_eq!(p(77, 640, 2048).simt_ranges(), 16);
        assert_eq!(p(8, 1280, 1280).simt_ranges(), 10);
        assert_eq!(p(1, 1, 127).simt_ranges(), 1);
        assert_eq!(p(0, 5, 1 << 20).scratch_bytes(), 0);
    }
}
