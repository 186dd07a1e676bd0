//! Launches of `forward_sm80.cu` and `backward_sm80.cu`: 16-bit types on mma.sync.

use super::{
    Problem,
    args::{self, BackwardArgs, ForwardArgs},
    effort::Walk,
    prepare,
};
use crate::{
    device::{Cuda, Engine, cubin_table::Target},
    error::{Error, Result},
    kernels::attention::Attention,
    op::{Backward, Forward},
    tensor::DType,
};

/// The kernels of one padded head dimension: forward, gradient of `q`, gradients of `k` and `v`.
struct Row {
    /// Largest head dimension.
    depth: usize,
    /// Output channels of a forward block and of a backward block.
    slices: [usize; 2],
    bf16: [&'static str; 3],
    f16: [&'static str; 3],
}

macro_rules! row {
    ($depth:literal, $forward:literal, $backward:literal) => {
        Row {
            depth: $depth,
            slices: [$forward, $backward],
            bf16: [
                concat!("attention_forward_sm80_d", $depth, "_bf16"),
                concat!("attention_backward_q_sm80_d", $depth, "_bf16"),
                concat!("attention_backward_kv_sm80_d", $depth, "_bf16"),
            ],
            f16: [
                concat!("attention_forward_sm80_d", $depth, "_f16"),
                concat!("attention_backward_q_sm80_d", $depth, "_f16"),
                concat!("attention_backward_kv_sm80_d", $depth, "_f16"),
            ],
        }
    };
}

/// By head dimension; a smaller one is padded with zeros.
const ROWS: [Row; 6] = [
    row!(48, 48, 48),
    row!(64, 64, 64),
    row!(80, 80, 80),
    row!(128, 128, 128),
    row!(160, 160, 160),
    row!(512, 256, 128),
];

fn row(p: &Problem) -> Option<&'static Row> {
    ROWS.iter().find(|r| p.head_dim <= r.depth)
}

impl Row {
    fn symbol(&self, p: &Problem, pass: usize) -> &'static str {
        if p.dtype == DType::F16 { self.f16[pass] } else { self.bf16[pass] }
    }

    /// What the blocks of a pass walk over; every output slice makes the scores anew.
    fn slices(&self, p: &Problem, pass: usize, walk: impl Fn(usize) -> Walk) -> Walk {
        let one = walk(p.head_dim.next_multiple_of(16).min(self.depth));
        let slices = p.head_dim.div_ceil(self.slices[pass.min(1)]);
        Walk { blocks: one.blocks * slices, ..one }
    }

    /// Heads times output slices: a slice that starts past the head dimension makes nothing.
    fn heads(&self, p: &Problem, pass: usize) -> u64 {
        (p.heads * p.head_dim.div_ceil(self.slices[pass.min(1)])) as u64
    }
}

/// Copies of 16 bytes need head dimensions that are multiples of 8; a negative scale would turn the
/// maximum into a minimum. Tiles of more than 256 channels take 179 to 195 KiB of shared memory: Hopper has
/// 227 a block, Ampere 163.
pub(super) fn forward_applies(p: &Problem) -> bool {
    let ampere = matches!(p.target, Target::Sm80 | Target::Ptx);
    let fits = p.head_dim <= 256 || !ampere;
    let known = p.head_dim.is_multiple_of(8) && row(p).is_some();
    p.dtype.size_bytes() == 2 && known && fits && p.scale > 0.0
}

/// The gradient of `v` alone keeps neither `v` nor the output, which these kernels read.
pub(super) fn backward_applies(p: &Problem) -> bool {
    forward_applies(p) && (p.wants[0] || p.wants[1])
}

fn find(p: &Problem) -> Result<&'static Row> {
    row(p).ok_or_else(|| Error::NoKernel {
        op: "attention",
        key: format!("a head dimension of {}", p.head_dim),
        tried: "up to 512".into(),
    })
}

pub(super) fn forward(op: &Attention, cuda: &Cuda, p: &Problem, io: &Forward<'_>) -> Result<()> {
    let row = find(p)?;
    let kernel = cuda.kernel::<ForwardArgs>("attention", row.symbol(p, 0))?;
    let (args, touches) = args::forward(op, p, io)?;
    let tile = kernel.tile();
    let walk = row.slices(p, 0, |depth| {
        let cut = [tile.block_cols as usize, depth];
        Walk::forward(Engine::Mma, p, tile.block_rows as usize, cut)
    });
    let kernel = kernel.taking(walk.effort(p, &touches));
    let blocks = (p.len_q as u64).div_ceil(u64::from(tile.block_rows));
    cuda.launch(&kernel, [blocks, row.heads(p, 0), p.samples as u64], &args, &touches)
}

pub(super) fn backward(op: &Attention, cuda: &Cuda, p: &Problem, io: &Backward<'_>) -> Result<()> {
    let row = find(p)?;
    prepare::statistics(cuda, p, io)?;
    let parts = p.split();
    let (args, touches) = args::backward(op, p, io, parts)?;
    if p.wants[0] && p.len_q > 0 {
        // the splits are of the other kernel: this one reads 1
        let (args, touches) = args::backward(op, p, io, (1, parts.1))?;
        let kernel = cuda.kernel::<BackwardArgs>("attention", row.symbol(p, 1))?;
        let rows = kernel.tile().block_rows;
        let walk = row.slices(p, 1, |d| Walk::queries(Engine::Mma, p, rows as usize, d));
        let kernel = kernel.taking(walk.effort(p, &touches));
        let blocks = (p.len_q as u64).div_ceil(u64::from(rows));
        cuda.launch(&kernel, [blocks, row.heads(p, 1), p.samples as u64], &args, &touches)?;
    }
    if p.wants[1] || p.wants[2] {
        let kernel = cuda.kernel::<BackwardArgs>("attention", row.symbol(p, 2))?;
        let rows = kernel.tile().block_rows;
        let walk = |d| Walk::keys(Engine::Mma, p, rows as usize, [parts.0, d]);
        let kernel = kernel.taking(row.slices(p, 2, walk).effort(p, &touches));
        let blocks = (p.len_k as u64).div_ceil(u64::from(rows));
        let samples = (p.samples * parts.0) as u64;
        cuda.launch(&kernel, [blocks, row.heads(p, 2), samples], &args, &touches)?;
        if parts.0 > 1 {
            prepare::sum(cuda, p, io, parts)?;
        }
    }
    Ok(())
}
