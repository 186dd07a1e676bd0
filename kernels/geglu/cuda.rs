//! Launches of `geglu.cu`.

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

const FORWARD: [&str; 3] = ["geglu_forward_f32", "geglu_forward_bf16", "geglu_forward_f16"];
const BACKWARD: [&str; 3] = ["geglu_backward_f32", "geglu_backward_bf16", "geglu_backward_f16"];

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    target: u64,
    len: u64,
    d: u32,
    mode: i32,
}

fn launch(
    cuda: &Cuda,
    symbols: [&'static str; 3],
    y: &Spec,
    args: &Args,
    ops: &Operands,
) -> Result<()> {
    let name = ("geglu", by_dtype(y.dtype, symbols));
    elementwise::launch(cuda, name, (y.len(), 1), args, &ops.touches)
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    apply(cuda, io.out_spec, io.ins[0].address(), io.out.address())
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, dy, grad) = (io.ins[0].address(), io.d_out.address(), &io.d_ins[0]);
    if !grad.wanted() {
        return Ok(());
    }
    gradient(cuda, io.out_spec, [x, dy, grad.buf.address()], elementwise::mode(grad))
}

/// Rows of twice as many columns as `y` has.
fn double(y: &Spec) -> Result<Spec> {
    extent("geglu", y.last())?;
    Ok(y.with(&[y.len() / y.last().max(1), 2 * y.last()]))
}

/// Launches `y = a gelu(g)`; `x` and `target` are addresses.
pub(crate) fn apply(cuda: &Cuda, y: &Spec, x: u64, target: u64) -> Result<()> {
    let mut ops = Operands::default();
    let args = Args {
        x: ops.at("x", x, &double(y)?),
        dy: 0,
        target: ops.at("y", target, y),
        len: y.len() as u64,
        d: extent("geglu", y.last())?,
        mode: OVERWRITE,
    };
    launch(cuda, FORWARD, y, &args, &ops)
}

/// Launches the gradient; `x`, `dy` and `dx` are addresses, `mode` is `dx`'s.
pub(crate) fn gradient(cuda: &Cuda, y: &Spec, [x, dy, dx]: [u64; 3], mode: i32) -> Result<()> {
    let (mut ops, wide) = (Operands::default(), double(y)?);
    if mode != OVERWRITE {
        ops.at("dx", dx, &wide); // read, then written
    }
    let args = Args {
        target: ops.at("dx", dx, &wide),
        x: ops.at("x", x, &wide),
        dy: ops.at("dy", dy, y),
        len: y.len() as u64,
        d: extent("geglu", y.last())?,
        mode,
    };
    launch(cuda, BACKWARD, y, &args, &ops)
}
