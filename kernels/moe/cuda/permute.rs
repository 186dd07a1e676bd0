//! Launches of `permute.cu`.

use super::int;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const OP: &str = "moe_permute";
const FORWARD: [&str; 3] = ["moe_permute_f32", "moe_permute_bf16", "moe_permute_f16"];
const BACKWARD: [&str; 3] =
    ["moe_permute_backward_f32", "moe_permute_backward_bf16", "moe_permute_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    table: u64,
    target: u64,
    len: u64,
    rows: i32,
    slots: i32,
    cols: u32,
    mode: i32,
}

/// Extents of a call whose rows are `rows`; no operand yet.
fn extents(rows: &Spec, slots: usize) -> Result<Args> {
    Ok(Args {
        rows: int(OP, rows.dims[0])?,
        slots: int(OP, slots)?,
        cols: extent(OP, rows.last())?,
        mode: OVERWRITE,
        ..bytemuck::Zeroable::zeroed()
    })
}

pub(in super::super) fn forward(slots: usize, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (rows, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], &io.specs[0]),
        table: ops.read("table", io.ins[1], &io.specs[1]),
        target: ops.at("rows", io.out.address(), rows),
        len: rows.len() as u64,
        ..extents(rows, slots)?
    };
    let name = (OP, by_dtype(rows.dtype, FORWARD));
    elementwise::launch(cuda, name, (rows.len(), 1), &args, &ops.touches)
}

pub(in super::super) fn backward(slots: usize, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, mut ops) = (&io.specs[0], Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if mode == 0 {
        return Ok(());
    }
    let args = Args {
        from: ops.read("drows", io.d_out, io.out_spec),
        table: ops.read("table", io.ins[1], &io.specs[1]),
        target,
        len: x.len() as u64,
        mode,
        ..extents(io.out_spec, slots)?
    };
    let name = (OP, by_dtype(x.dtype, BACKWARD));
    elementwise::launch(cuda, name, (x.len(), 1), &args, &ops.touches)
}
