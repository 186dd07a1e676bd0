//! Launches of `multiply.cu` and `channels.cu`.

use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const PRODUCT: [&str; 3] = ["multiply_f32", "multiply_bf16", "multiply_f16"];
const CHANNELS: [&str; 3] =
    ["multiply_channels_f32", "multiply_channels_bf16", "multiply_channels_f16"];
const SUMS: [&str; 3] =
    ["multiply_channel_sums_f32", "multiply_channel_sums_bf16", "multiply_channel_sums_f16"];
const TOTAL: [&str; 3] =
    ["multiply_channel_total_f32", "multiply_channel_total_bf16", "multiply_channel_total_f16"];

/// Rows one block of the first stage sums.
const PART_ROWS: usize = 256;

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

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ChannelArgs {
    from: u64,
    factor: u64,
    target: u64,
    len: u64,
    cols: u32,
    mode: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SumArgs {
    x: u64,
    dy: u64,
    partial: u64,
    rows: u32,
    cols: u32,
    part_rows: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct TotalArgs {
    partial: u64,
    target: u64,
    parts: u32,
    cols: u32,
    mode: i32,
    unused: i32,
}

pub(super) fn channels(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = ChannelArgs {
        from: ops.read("x", io.ins[0], y),
        factor: ops.read("s", io.ins[1], &io.specs[1]),
        target: ops.at("y", io.out.address(), y),
        len: y.len() as u64,
        cols: extent("multiply", y.last())?,
        mode: OVERWRITE,
    };
    let name = ("multiply", by_dtype(y.dtype, CHANNELS));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

/// Parts in which the rows of `x` are summed.
fn parts(x: &Spec) -> usize {
    x.rows_cols().0.div_ceil(PART_ROWS)
}

/// Bytes of the partial sums of `ds`.
pub(super) fn scratch_bytes(x: &Spec) -> usize {
    parts(x) * x.last() * size_of::<f32>()
}

pub(super) fn channels_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let (target, mode) = ops.gradient("dx", &io.d_ins[0], y);
    if target != 0 {
        let args = ChannelArgs {
            from: ops.read("dy", io.d_out, y),
            factor: ops.read("s", io.ins[1], &io.specs[1]),
            target,
            len: y.len() as u64,
            cols: extent("multiply", y.last())?,
            mode,
        };
        let name = ("multiply", by_dtype(y.dtype, CHANNELS));
        elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)?;
    }
    if io.d_ins[1].wanted() { sums(cuda, io) } else { Ok(()) }
}

/// The two stages of the gradient of the factors.
fn sums(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, s) = (&io.specs[0], &io.specs[1]);
    let ((rows, cols), parts) = (x.rows_cols(), parts(x));
    let address = io.scratch.address();
    let partial = Touched { what: "partial sums", address, bytes: scratch_bytes(x) };
    if parts > 0 {
        let mut ops = Operands { touches: vec![partial] };
        let args = SumArgs {
            x: ops.read("x", io.ins[0], x),
            dy: ops.read("dy", io.d_out, x),
            partial: partial.address,
            rows: extent("multiply", rows)?,
            cols: extent("multiply", cols)?,
            part_rows: PART_ROWS as u32,
            unused: 0,
        };
        let kernel = cuda.kernel::<SumArgs>("multiply", by_dtype(x.dtype, SUMS))?;
        let blocks = cols.div_ceil(kernel.tile().block_cols as usize);
        cuda.launch(&kernel, [blocks as u64, parts as u64, 1], &args, &ops.touches)?;
    }
    let mut ops = Operands { touches: vec![partial] };
    let (target, mode) = ops.gradient("ds", &io.d_ins[1], s);
    let args = TotalArgs {
        partial: partial.address,
        target,
        parts: extent("multiply", parts)?,
        cols: extent("multiply", cols)?,
        mode,
        unused: 0,
    };
    let name = ("multiply", by_dtype(x.dtype, TOTAL));
    elementwise::launch(cuda, name, (cols, 1), &args, &ops.touches)
}
