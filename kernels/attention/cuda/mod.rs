//! Choice of the CUDA variant of a call.

mod args;
mod biased;
mod effort;
mod once;
mod prepare;
mod simt;
mod sm80;
mod sm90;
mod widths;

pub(super) use biased::{
    backward as biased_backward, backward_scratch as biased_backward_scratch,
    forward as biased_forward, name as biased_name,
};

use super::Attention;
use crate::{
    device::{Cuda, cubin_table::Target},
    error::{Error, Result},
    kernels::variant::{Slot, Variant, choose},
    op::{Backward, Forward},
    tensor::{DType, Spec},
};

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// What the device's kernels are compiled for.
    pub target: Target,
    /// Of the device.
    pub multiprocessors: usize,
    /// Of every operand.
    pub dtype: DType,
    /// Samples.
    pub samples: usize,
    /// Queries.
    pub len_q: usize,
    /// Keys.
    pub len_k: usize,
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Whether later keys are hidden.
    pub causal: bool,
    /// Factor on the scores.
    pub scale: f32,
    /// Which gradients: of `q, k, v`.
    pub wants: [bool; 3],
}

/// Multiprocessors that the split of few keys is made for, on every machine, so that the order of a
/// sum never depends on it.
const SPLIT_BLOCKS: usize = 132;
/// Key rows of a block that makes their gradients; partial sums are padded to it.
const SPLIT_ROWS: usize = 128;
/// Rows that the padded statistics of backward are a multiple of: the largest query block.
const STAT_ROWS: usize = 128;

/// Parts of the queries that the gradients of few keys are made from, and keys padded to whole
/// blocks.
fn split(dims: &[usize], len_k: usize) -> (usize, usize) {
    let (heads, queries) = (dims[0] * dims[2], dims[1].div_ceil(SPLIT_ROWS));
    let blocks = len_k.div_ceil(SPLIT_ROWS);
    let parts = SPLIT_BLOCKS / (blocks * heads).max(1);
    (parts.min(queries).max(1), blocks * SPLIT_ROWS)
}

/// Elements of one padded statistic, `[N, H, stat_len]`.
fn statistics(samples: usize, len_q: usize, heads: usize) -> usize {
    samples * heads * len_q.next_multiple_of(STAT_ROWS)
}

impl Problem {
    fn new(op: &Attention, cuda: &Cuda, ins: &[Spec], wants: [bool; 3]) -> Self {
        let q = &ins[0].dims;
        Self {
            target: cuda.target(),
            multiprocessors: cuda.multiprocessors() as usize,
            dtype: ins[0].dtype,
            samples: q[0],
            len_q: q[1],
            len_k: ins[1].dims[1],
            heads: q[2],
            head_dim: q[3],
            causal: op.causal,
            scale: op.scale,
            wants,
        }
    }

    fn split(&self) -> (usize, usize) {
        split(&[self.samples, self.len_q, self.heads], self.len_k)
    }

    /// `[splits, N, H, 2, pad_k, D]` f32.
    fn partial_bytes(&self, splits: usize, pad_k: usize) -> usize {
        splits * self.samples * self.heads * 2 * pad_k * self.head_dim * size_of::<f32>()
    }
}

/// Bytes of backward's scratch: two statistics of every query, and partial gradients of few keys.
pub(super) fn backward_scratch(q: &[usize], len_k: usize) -> usize {
    let (splits, pad_k) = split(q, len_k);
    let partial = if splits > 1 { splits * q[0] * q[2] * 2 * pad_k * q[3] } else { 0 };
    (2 * statistics(q[0], q[1], q[2]) + partial) * size_of::<f32>()
}

/// Bytes of the scratch of `op`'s backward: where one pass may make all gradients, there is room for the f32 sums of `dq`
/// in the place of the partial ones.
pub(super) fn scratch(op: &Attention, dtype: DType, q: &[usize], len_k: usize) -> usize {
    let sums = once::sums_bytes(dtype, op.causal, q, len_k);
    backward_scratch(q, len_k).max(2 * statistics(q[0], q[1], q[2]) * size_of::<f32>() + sums)
}

/// Forward variants, best first. `sm90_n192_poly` and `sm90_m192_n192` stand behind one that always applies with them: they
/// run only when they are asked for, until a GPU has measured them.
pub const FORWARD: &[Variant<Problem>] = &[
    Variant { name: "sm90_n80", applies: sm90::n80_applies },
    Variant { name: "sm90_m192", applies: sm90::m192_applies },
    Variant { name: "sm90_m128", applies: sm90::m128_applies },
    Variant { name: "sm90_n192_poly", applies: sm90::m128_applies },
    Variant { name: "sm90_m192_n192", applies: sm90::m192_n192_applies },
    Variant { name: "sm90_d128", applies: sm90::d128_applies },
    Variant { name: "sm90_w64_n80", applies: |p| widths::forward_fits(p, 64) && p.len_k <= 80 },
    Variant { name: "sm90_w48", applies: |p| widths::forward_fits(p, 48) },
    Variant { name: "sm90_w64", applies: |p| widths::forward_fits(p, 64) },
    Variant { name: "sm90_w80", applies: |p| widths::forward_fits(p, 80) },
    Variant { name: "sm90_w128", applies: |p| widths::forward_fits(p, 128) },
    Variant { name: "sm90_w160", applies: |p| widths::forward_fits(p, 160) },
    Variant { name: "sm90_w512", applies: |p| widths::forward_fits(p, 512) && p.head_dim > 256 },
    Variant { name: "sm80", applies: sm80::forward_applies },
    Variant { name: "simt", applies: |_| true },
];

/// Backward variants, best first; `sm90_turns` and `sm90_once` run only when they are asked for.
pub const BACKWARD: &[Variant<Problem>] = &[
    Variant { name: "sm90", applies: sm90::backward_applies },
    Variant { name: "sm90_turns", applies: sm90::backward_applies },
    Variant { name: "sm90_once", applies: once::applies },
    Variant { name: "sm90_w48", applies: |p| widths::backward_fits(p, 48) },
    Variant { name: "sm90_w64", applies: |p| widths::backward_fits(p, 64) },
    Variant { name: "sm90_w80", applies: |p| widths::backward_fits(p, 80) },
    Variant { name: "sm80", applies: sm80::backward_applies },
    Variant { name: "simt", applies: |_| true },
];

const SLOT_FORWARD: &str = "attention.forward";
const SLOT_BACKWARD: &str = "attention.backward";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    let mut all = vec![Slot::of(SLOT_FORWARD, FORWARD), Slot::of(SLOT_BACKWARD, BACKWARD)];
    all.extend(biased::slots());
    all
}

/// The name of the variant that runs, for a reader of the plan.
pub(super) fn name(op: &Attention, cuda: &Cuda, ins: &[Spec], backward: bool) -> String {
    let problem = Problem::new(op, cuda, ins, [true; 3]);
    let chosen = if backward {
        choose(cuda, SLOT_BACKWARD, BACKWARD, &problem)
    } else {
        choose(cuda, SLOT_FORWARD, FORWARD, &problem)
    };
    chosen.map_or(String::new(), |v| v.name.into())
}

pub(super) fn forward(op: &Attention, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let problem = Problem::new(op, cuda, io.specs, [false; 3]);
    if io.out_spec.is_empty() {
        return Ok(());
    }
    match choose(cuda, SLOT_FORWARD, FORWARD, &problem)?.name {
        "simt" => simt::forward(op, cuda, &problem, io),
        "sm80" => sm80::forward(op, cuda, &problem, io),
        name => sm90::forward(op, cuda, (&problem, name), io),
    }
}

pub(super) fn backward(op: &Attention, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let wants = [io.d_ins[0].wanted(), io.d_ins[1].wanted(), io.d_ins[2].wanted()];
    let problem = Problem::new(op, cuda, io.specs, wants);
    if !wants.contains(&true) || problem.samples * problem.heads == 0 {
        return Ok(());
    }
    match choose(cuda, SLOT_BACKWARD, BACKWARD, &problem)?.name {
        "simt" => simt::backward(op, cuda, &problem, io),
        "sm80" => sm80::backward(op, cuda, &problem, io),
        "sm90_once" => once::backward(op, cuda, &problem, io),
        name => sm90::backward(op, cuda, (&problem, name), io),
    }
}

/// An extent as the kernels take it.
fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "attention",
        key: format!("an extent of {n}"),
        tried: "32-bit extents".into(),
    })
}
