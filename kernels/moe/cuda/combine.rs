//! Launches of `combine.cu`.

use super::int;
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        elementwise::{OVERWRITE, Operands, extent},
        moe,
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const OP: &str = "moe_combine";
const FORWARD: [&str; 3] = ["moe_combine_f32", "moe_combine_bf16", "moe_combine_f16"];
const BACKWARD: [&str; 3] =
    ["moe_combine_backward_f32", "moe_combine_backward_bf16", "moe_combine_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    rows: u64,
    table: u64,
    logits: u64,
    dy: u64,
    out: u64,
    d_logits: u64,
    tokens: i32,
    experts: i32,
    slots: i32,
    top_k: i32,
    cols: u32,
    out_mode: i32,
    logits_mode: i32,
    unused: i32,
}

/// Extents of a call; no operand yet.
fn extents(specs: &[Spec], top_k: usize) -> Result<Args> {
    let t = moe::extents(&specs[0], &specs[2]);
    Ok(Args {
        tokens: int(OP, t.tokens)?,
        experts: int(OP, t.experts)?,
        slots: int(OP, t.slots)?,
        top_k: int(OP, top_k)?,
        cols: extent(OP, specs[0].last())?,
        out_mode: OVERWRITE,
        ..bytemuck::Zeroable::zeroed()
    })
}

/// A block a token.
fn launch(cuda: &Cuda, symbol: &'static str, args: &Args, touches: &[Touched]) -> Result<()> {
    if args.tokens == 0 || args.cols == 0 && args.logits_mode == 0 {
        return Ok(());
    }
    let kernel = cuda.kernel::<Args>(OP, symbol)?;
    cuda.launch(&kernel, [u64::from(args.tokens.cast_unsigned()), 1, 1], args, touches)
}

pub(in super::super) fn forward(top_k: usize, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let args = Args {
        rows: ops.read("rows", io.ins[0], &specs[0]),
        table: ops.read("table", io.ins[1], &specs[1]),
        logits: ops.read("logits", io.ins[2], &specs[2]),
        out: ops.at("y", io.out.address(), io.out_spec),
        ..extents(specs, top_k)?
    };
    launch(cuda, by_dtype(io.out_spec.dtype, FORWARD), &args, &ops.touches)
}

pub(in super::super) fn backward(top_k: usize, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let (d_rows, rows_mode) = ops.gradient("drows", &io.d_ins[0], &specs[0]);
    let (d_logits, logits_mode) = ops.gradient("dlogits", &io.d_ins[2], &specs[2]);
    if rows_mode == 0 && logits_mode == 0 {
        return Ok(());
    }
    let rows = if logits_mode == 0 { 0 } else { ops.read("rows", io.ins[0], &specs[0]) };
    let args = Args {
        rows,
        table: ops.read("table", io.ins[1], &specs[1]),
        logits: ops.read("logits", io.ins[2], &specs[2]),
        dy: ops.read("dy", io.d_out, io.out_spec),
        out: d_rows,
        d_logits,
        out_mode: rows_mode,
        logits_mode,
        ..extents(specs, top_k)?
    };
    launch(cuda, by_dtype(io.out_spec.dtype, BACKWARD), &args, &ops.touches)
}
