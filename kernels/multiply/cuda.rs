//! Launches of `multiply.cu`.

use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands},
        variant::by_dtype,
    },
    op::{Backward, Forward},
};

const PRODUCT: [&str; 3] = ["multiply_f32", "multiply_bf16", "multiply_f16"];

/// `target = a b`, overwritten or added.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    a: u64,
    b: u64,
    target: u64,
    len: u64,
    mode: i32,
    unused: i32,
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        a: ops.read("a", io.ins[0], y),
        b: ops.read("b", io.ins[1], y),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        mode: OVERWRITE,
        unused: 0,
    };
    let name = ("multiply", by_dtype(y.dtype, PRODUCT));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

/// One launch for each gradient: the other factor times `dy`.
pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let y = io.out_spec;
    for (i, grad) in io.d_ins.iter().enumerate().filter(|(_, g)| g.wanted()) {
        let mut ops = Operands::default();
        let (target, mode) = ops.gradient("gradient", grad, y);
        let args = Args {
            a: ops.read("other", io.ins[1 - i], y),
            b: ops.read("dy", io.d_out, y),
            target,
            len: y.len() as u64,
            mode,
            unused: 0,
        };
        let name = ("multiply", by_dtype(y.dtype, PRODUCT));
        elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)?;
    }
    Ok(())
}
