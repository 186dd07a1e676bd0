//! Launches of `windows.cu`.

use super::{Cut, Way};
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::{DType, Spec},
};

const OP: &str = "windows";
const TO_WINDOWS: [&str; 3] =
    ["windows_partition_f32", "windows_partition_bf16", "windows_partition_f16"];
const TO_PICTURE: [&str; 3] =
    ["windows_unpartition_f32", "windows_unpartition_bf16", "windows_unpartition_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    target: u64,
    len: u64,
    h: u32,
    w: u32,
    channels: u32,
    window: [u32; 2],
    count: [u32; 2],
    mode: i32,
}

pub(super) fn forward(cut: Cut, way: Way, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let mut ops = Operands::default();
    let from = ops.read("x", io.ins[0], &io.specs[0]);
    let target = ops.at("y", io.out.address(), io.out_spec);
    launch(cuda, cut, way, (from, target, OVERWRITE), io.out_spec, &ops)
}

pub(super) fn backward(cut: Cut, way: Way, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let mut ops = Operands::default();
    let from = ops.read("dy", io.d_out, io.out_spec);
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], &io.specs[0]);
    if mode == 0 {
        return Ok(());
    }
    launch(cuda, cut, way, (from, target, mode), &io.specs[0], &ops)
}

fn launch(
    cuda: &Cuda,
    cut: Cut,
    way: Way,
    (from, target, mode): (u64, u64, i32),
    result: &Spec,
    ops: &Operands,
) -> Result<()> {
    let [a, b] = cut.window;
    let [down, across] = cut.count;
    let int = |n: usize| extent(OP, n);
    int(cut.n * down * across * a * b)?; // pixels are counted with 32 bits
    let args = Args {
        from,
        target,
        len: result.len() as u64,
        h: int(cut.h)?,
        w: int(cut.w)?,
        channels: int(cut.c)?,
        window: [int(a)?, int(b)?],
        count: [int(down)?, int(across)?],
        mode,
    };
    let name = (OP, symbol(way, result.dtype));
    elementwise::launch(cuda, name, (result.len(), 1), &args, &ops.touches)
}

fn symbol(way: Way, dtype: DType) -> &'static str {
    by_dtype(dtype, if way == Way::ToWindows { TO_WINDOWS } else { TO_PICTURE })
}
