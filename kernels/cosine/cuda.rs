//! Launches of `mean_tokens.cu` and `cosine.cu`.

use super::tokens;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        columns::by_type,
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
};

const OP: &str = "cosine";
const MEAN: [&str; 3] = by_type!("mean_tokens_forward");
const MEAN_BACKWARD: [&str; 3] = by_type!("mean_tokens_backward");
const COSINE: [&str; 3] = by_type!("cosine_forward");
const COSINE_BACKWARD: [&str; 3] = by_type!("cosine_backward");

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct MeanArgs {
    from: u64,
    target: u64,
    len: u64,
    tokens: u32,
    cols: u32,
    mode: i32,
    unused: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct CosineArgs {
    a: u64,
    b: u64,
    dy: u64,
    y: u64,
    target: [u64; 2],
    rows: u32,
    cols: u32,
    mode: [i32; 2],
}

pub(super) fn mean(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, y, mut ops) = (&io.specs[0], io.out_spec, Operands::default());
    if y.is_empty() {
        return Ok(());
    }
    let args = MeanArgs {
        from: ops.read("x", io.ins[0], x),
        target: ops.at("y", io.out.address(), y),
        len: (tokens(x) * x.last()) as u64,
        tokens: extent(OP, tokens(x))?,
        cols: extent(OP, x.last())?,
        mode: OVERWRITE,
        unused: 0,
    };
    let kernel = cuda.kernel::<MeanArgs>(OP, by_dtype(x.dtype, MEAN))?;
    let blocks = x.last().div_ceil(kernel.tile().block_cols as usize);
    cuda.launch(&kernel, [blocks as u64, y.dims[0] as u64, 1], &args, &ops.touches)
}

pub(super) fn mean_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, mut ops) = (&io.specs[0], Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
    if target == 0 {
        return Ok(());
    }
    let len = tokens(x) * x.last();
    let args = MeanArgs {
        from: ops.read("dy", io.d_out, io.out_spec),
        target,
        len: len as u64,
        tokens: extent(OP, tokens(x))?,
        cols: extent(OP, x.last())?,
        mode,
        unused: 0,
    };
    let name = (OP, by_dtype(x.dtype, MEAN_BACKWARD));
    elementwise::launch(cuda, name, (len, x.dims[0]), &args, &ops.touches)
}

pub(super) fn cosine(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (a, mut ops) = (&io.specs[0], Operands::default());
    let args = CosineArgs {
        a: ops.read("a", io.ins[0], a),
        b: ops.read("b", io.ins[1], a),
        dy: 0,
        y: ops.at("y", io.out.address(), io.out_spec),
        target: [0; 2],
        rows: extent(OP, a.dims[0])?,
        cols: extent(OP, a.last())?,
        mode: [0; 2],
    };
    let kernel = cuda.kernel::<CosineArgs>(OP, by_dtype(a.dtype, COSINE))?;
    cuda.launch(&kernel, [1, 1, 1], &args, &ops.touches)
}

pub(super) fn cosine_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (a, mut ops) = (&io.specs[0], Operands::default());
    let (da, mode_a) = ops.gradient("da", &io.d_ins[0], a);
    let (db, mode_b) = ops.gradient("db", &io.d_ins[1], a);
    if (mode_a, mode_b) == (0, 0) || a.is_empty() {
        return Ok(());
    }
    let args = CosineArgs {
        a: ops.read("a", io.ins[0], a),
        b: ops.read("b", io.ins[1], a),
        dy: ops.read("dy", io.d_out, io.out_spec),
        y: 0,
        target: [da, db],
        rows: extent(OP, a.dims[0])?,
        cols: extent(OP, a.last())?,
        mode: [mode_a, mode_b],
    };
    let kernel = cuda.kernel::<CosineArgs>(OP, by_dtype(a.dtype, COSINE_BACKWARD))?;
    let blocks = a.dims[0].div_ceil(kernel.tile().block_rows as usize);
    cuda.launch(&kernel, [blocks as u64, 1, 1], &args, &ops.touches)
}
