//! Launches of `slice.cu`.

use super::Slice;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
};

const FORWARD: [&str; 3] = ["slice_forward_f32", "slice_forward_bf16", "slice_forward_f16"];
const BACKWARD: [&str; 3] = ["slice_backward_f32", "slice_backward_bf16", "slice_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    target: u64,
    len: u64,
    cols: u32,
    first: u32,
    part: u32,
    mode: i32,
}

impl Args {
    fn of(op: Slice, cols: usize) -> Result<Self> {
        let int = |n: usize| extent("slice", n);
        let (first, part) = (int(op.from)?, int(op.len)?);
        Ok(Self { from: 0, target: 0, len: 0, cols: int(cols)?, first, part, mode: OVERWRITE })
    }
}

pub(super) fn forward(op: Slice, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], x),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        ..Args::of(op, x.last())?
    };
    let name = ("slice", by_dtype(x.dtype, FORWARD));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(op: Slice, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if mode == 0 {
        return Ok(());
    }
    let args = Args {
        from: ops.read("dy", io.d_out, y),
        target,
        len: x.len() as u64,
        mode,
        ..Args::of(op, x.last())?
    };
    let name = ("slice", by_dtype(x.dtype, BACKWARD));
    elementwise::launch(cuda, name, (x.len(), 1), &args, &ops.touches)
}
