//! Launches of `cast.cu`.

use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::DType,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    target: u64,
    len: u64,
    mode: i32,
    unused: i32,
}

fn symbol(from: DType, to: DType) -> &'static str {
    let to = |f32s, bf16s, f16s| by_dtype(to, [f32s, bf16s, f16s]);
    match from {
        DType::F32 | DType::I32 => to("cast_f32_f32", "cast_f32_bf16", "cast_f32_f16"),
        DType::Bf16 => to("cast_bf16_f32", "cast_bf16_bf16", "cast_bf16_f16"),
        DType::F16 => to("cast_f16_f32", "cast_f16_bf16", "cast_f16_f16"),
    }
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], x),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        mode: OVERWRITE,
        unused: 0,
    };
    let name = ("cast", symbol(x.dtype, y.dtype));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if mode == 0 {
        return Ok(());
    }
    let from = ops.read("dy", io.d_out, y);
    let args = Args { from, target, len: y.len() as u64, mode, unused: 0 };
    let name = ("cast", symbol(y.dtype, x.dtype));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}
