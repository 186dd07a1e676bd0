//! Launches of `forward.cu` and `backward.cu`: the variant of every type and head dimension.

use super::{
    Problem,
    args::{self, BackwardArgs, ForwardArgs},
    effort::Walk,
    prepare,
};
use crate::{
    device::{Cuda, Engine},
    error::Result,
    kernels::{attention::Attention, variant::by_dtype},
    op::{Backward, Forward},
};

/// Head channels that one block of the small and of the large kernels makes.
const SLICES: [usize; 2] = [64, 128];
/// `[f32, bf16, f16]` of the small and of the large slice.
pub(super) type Symbols = [[&'static str; 3]; 2];
const FORWARD: Symbols = [
    [
        "attention_forward_simt64_f32",
        "attention_forward_simt64_bf16",
        "attention_forward_simt64_f16",
    ],
    [
        "attention_forward_simt128_f32",
        "attention_forward_simt128_bf16",
        "attention_forward_simt128_f16",
    ],
];
const BACKWARD_Q: Symbols = [
    [
        "attention_backward_q_simt64_f32",
        "attention_backward_q_simt64_bf16",
        "attention_backward_q_simt64_f16",
    ],
    [
        "attention_backward_q_simt128_f32",
        "attention_backward_q_simt128_bf16",
        "attention_backward_q_simt128_f16",
    ],
];
const BACKWARD_KV: Symbols = [
    [
        "attention_backward_kv_simt64_f32",
        "attention_backward_kv_simt64_bf16",
        "attention_backward_kv_simt64_f16",
    ],
    [
        "attention_backward_kv_simt128_f32",
        "attention_backward_kv_simt128_bf16",
        "attention_backward_kv_simt128_f16",
    ],
];

/// The kernel for the head dimension.
pub(super) fn symbol(p: &Problem, symbols: Symbols) -> &'static str {
    by_dtype(p.dtype, symbols[usize::from(p.head_dim > SLICES[0])])
}

/// Blocks over `len` rows of every head, output slice and sample.
pub(super) fn grid(p: &Problem, len: usize, rows: u32) -> [u64; 3] {
    let slices = if p.head_dim > SLICES[0] { p.head_dim.div_ceil(SLICES[1]) } else { 1 };
    let blocks = (len as u64).div_ceil(u64::from(rows));
    [blocks, (p.heads * slices) as u64, p.samples as u64]
}

pub(super) fn forward(op: &Attention, cuda: &Cuda, p: &Problem, io: &Forward<'_>) -> Result<()> {
    let kernel = cuda.kernel::<ForwardArgs>("attention", symbol(p, FORWARD))?;
    let (args, touches) = args::forward(op, p, io)?;
    let tile = kernel.tile();
    let cut = [tile.block_cols as usize, p.head_dim];
    let walk = Walk::forward(Engine::Ordinary, p, tile.block_rows as usize, cut);
    let kernel = kernel.taking(walk.effort(p, &touches));
    cuda.launch(&kernel, grid(p, p.len_q, tile.block_rows), &args, &touches)
}

pub(super) fn backward(op: &Attention, cuda: &Cuda, p: &Problem, io: &Backward<'_>) -> Result<()> {
    if p.wants[0] || p.wants[1] {
        prepare::statistics(cuda, p, io)?;
    }
    let (args, touches) = args::backward(op, p, io, (1, 0))?;
    if p.wants[0] && p.len_q > 0 {
        let kernel = cuda.kernel::<BackwardArgs>("attention", symbol(p, BACKWARD_Q))?;
        let rows = kernel.tile().block_rows;
        let walk = Walk::queries(Engine::Ordinary, p, rows as usize, p.head_dim);
        let kernel = kernel.taking(walk.effort(p, &touches));
        cuda.launch(&kernel, grid(p, p.len_q, rows), &args, &touches)?;
    }
    if p.wants[1] || p.wants[2] {
        let kernel = cuda.kernel::<BackwardArgs>("attention", symbol(p, BACKWARD_KV))?;
        let rows = kernel.tile().block_rows;
        let walk = Walk::keys(Engine::Ordinary, p, rows as usize, [1, p.head_dim]);
        let kernel = kernel.taking(walk.effort(p, &touches));
        cuda.launch(&kernel, grid(p, p.len_k, rows), &args, &touches)?;
    }
    Ok(())
}
