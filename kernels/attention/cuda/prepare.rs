//! Launches of `prepare.cu`: statistics before the main kernels, the sum of partial gradients after
//! them.

use super::{
    Problem,
    args::{Scratch, target, touched_lse},
    int,
};
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::variant::by_dtype,
    op::Backward,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PrepareArgs {
    out: u64,
    d_out: u64,
    lse: u64,
    lse2: u64,
    delta: u64,
    len_q: i32,
    stat_len: i32,
    heads: i32,
    head_dim: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SumArgs {
    partial: u64,
    dk: u64,
    dv: u64,
    len_k: i32,
    pad_k: i32,
    heads: i32,
    head_dim: i32,
    samples: i32,
    splits: i32,
    add_k: i32,
    add_v: i32,
}

const PREPARE_ANY: [&str; 3] =
    ["attention_prepare_vec1_f32", "attention_prepare_vec1_bf16", "attention_prepare_vec1_f16"];
/// Of head dimensions that are multiples of 8.
const PREPARE_8: [&str; 3] =
    ["attention_prepare_vec8_f32", "attention_prepare_vec8_bf16", "attention_prepare_vec8_f16"];
/// Of the tensor cores' variants, which have no f32: nothing asks for the first.
const SUM: [&str; 3] = ["attention_sum_f32", "attention_sum_bf16", "attention_sum_f16"];

/// Computes the statistics that the gradients of `q` and `k` need.
pub(super) fn statistics(cuda: &Cuda, p: &Problem, io: &Backward<'_>) -> Result<()> {
    let at = Scratch::of(p, io);
    if p.len_q == 0 {
        return Ok(());
    }
    let symbols = if p.head_dim.is_multiple_of(8) { PREPARE_8 } else { PREPARE_ANY };
    let kernel = cuda.kernel::<PrepareArgs>("attention", by_dtype(p.dtype, symbols))?;
    let args = PrepareArgs {
        out: io.out.address(),
        d_out: io.d_out.address(),
        lse: io.saved[0].address(),
        lse2: at.lse2,
        delta: at.delta,
        len_q: int(p.len_q)?,
        stat_len: int(at.stat_len)?,
        heads: int(p.heads)?,
        head_dim: int(p.head_dim)?,
    };
    let touches = [
        Touched::new("out", args.out, io.out_spec),
        Touched::new("d_out", args.d_out, io.out_spec),
        touched_lse(p, args.lse),
        Touched { what: "statistics", address: at.lse2, bytes: 2 * at.statistic_bytes },
    ];
    let rows = (at.stat_len * p.heads) as u64;
    let blocks = rows.div_ceil(u64::from(kernel.tile().block_rows));
    cuda.launch(&kernel, [blocks, p.samples as u64, 1], &args, &touches)
}

/// Adds the partial sums of `dk` and `dv` in the order of their splits.
pub(super) fn sum(
    cuda: &Cuda,
    p: &Problem,
    io: &Backward<'_>,
    (splits, pad_k): (usize, usize),
) -> Result<()> {
    let kernel = cuda.kernel::<SumArgs>("attention", by_dtype(p.dtype, SUM))?;
    let ((dk, add_k), (dv, add_v)) = (target(&io.d_ins[1]), target(&io.d_ins[2]));
    let args = SumArgs {
        partial: Scratch::of(p, io).partial,
        dk,
        dv,
        len_k: int(p.len_k)?,
        pad_k: int(pad_k)?,
        heads: int(p.heads)?,
        head_dim: int(p.head_dim)?,
        samples: int(p.samples)?,
        splits: int(splits)?,
        add_k,
        add_v,
    };
    let bytes = p.partial_bytes(splits, pad_k);
    let mut touches = vec![Touched { what: "partial", address: args.partial, bytes }];
    for (i, address) in [(1, dk), (2, dv)] {
        if p.wants[i] {
            touches.push(Touched::new("gradient", address, &io.specs[i]));
        }
    }
    let elements = (p.len_k * p.heads * p.head_dim) as u64;
    let blocks = elements.div_ceil(u64::from(kernel.tile().block_cols));
    cuda.launch(&kernel, [blocks, p.samples as u64, 1], &args, &touches)
}
