//! Launches of `resize.cu`.

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

/// The kernels of one rule, by element type.
pub(super) struct Symbols {
    pub name: &'static str,
    forward: [&'static str; 3],
    backward: [&'static str; 3],
}

pub(super) const NEAREST: Symbols = Symbols {
    name: "resize_nearest",
    forward: ["resize_nearest_f32", "resize_nearest_bf16", "resize_nearest_f16"],
    backward: [
        "resize_nearest_backward_f32",
        "resize_nearest_backward_bf16",
        "resize_nearest_backward_f16",
    ],
};
pub(super) const BILINEAR: Symbols = Symbols {
    name: "resize_bilinear",
    forward: ["resize_bilinear_f32", "resize_bilinear_bf16", "resize_bilinear_f16"],
    backward: [
        "resize_bilinear_backward_f32",
        "resize_bilinear_backward_bf16",
        "resize_bilinear_backward_f16",
    ],
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    target: u64,
    len: u64,
    in_h: i32,
    in_w: i32,
    out_h: i32,
    out_w: i32,
    channels: i32,
    mode: i32,
}

/// Extents of a call; products of source and target extents are taken in 32 bits by the kernel.
fn extents(name: &'static str, x: &Spec, y: &Spec) -> Result<Args> {
    let int = |n: usize| Ok(extent(name, n)?.cast_signed());
    for axis in [1, 2] {
        extent(name, (x.dims[axis] + 1) * (y.dims[axis] + 1))?;
    }
    extent(name, x.dims[..3].iter().product())?;
    extent(name, y.dims[..3].iter().product())?;
    Ok(Args {
        from: 0,
        target: 0,
        len: 0,
        in_h: int(x.dims[1])?,
        in_w: int(x.dims[2])?,
        out_h: int(y.dims[1])?,
        out_w: int(y.dims[2])?,
        channels: int(x.dims[3])?,
        mode: OVERWRITE,
    })
}

pub(super) fn forward(symbols: &Symbols, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], x),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        ..extents(symbols.name, x, y)?
    };
    let name = (symbols.name, by_dtype(x.dtype, symbols.forward));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(symbols: &Symbols, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
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
        ..extents(symbols.name, x, y)?
    };
    let name = (symbols.name, by_dtype(x.dtype, symbols.backward));
    elementwise::launch(cuda, name, (x.len(), 1), &args, &ops.touches)
}
