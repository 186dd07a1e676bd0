//! Launches of `add.cu`.

use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        elementwise::{self, Operands, extent},
        variant::by_dtype,
    },
    op::{Backward, Buf, Forward, Grad},
    tensor::Spec,
};

const ADD: [&str; 3] = ["add_forward_f32", "add_forward_bf16", "add_forward_f16"];
const CHANNELS: [&str; 3] = ["add_channels_f32", "add_channels_bf16", "add_channels_f16"];
const BACKWARD: [&str; 3] = ["add_backward_f32", "add_backward_bf16", "add_backward_f16"];
const SUMS: [&str; 3] = ["add_channel_sums_f32", "add_channel_sums_bf16", "add_channel_sums_f16"];
const TOTAL: [&str; 3] =
    ["add_channel_total_f32", "add_channel_total_bf16", "add_channel_total_f16"];

/// Rows one block of the first stage sums: 64 parts for an SDXL map of 128 x 128.
const PART_ROWS: usize = 256;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    a: u64,
    b: u64,
    y: u64,
    len: u64,
    cols: u32,
    unused: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GradArgs {
    dy: u64,
    target: [u64; 2],
    len: u64,
    mode: [i32; 2],
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SumArgs {
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

/// `y = a + b` in `samples` parts of equal length, `cols` the length of a row of `b` for each.
fn sum(
    cuda: &Cuda,
    symbols: [&'static str; 3],
    io: &Forward<'_>,
    (samples, cols): (usize, usize),
) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let len = y.len().checked_div(samples).unwrap_or(0);
    let args = Args {
        a: ops.read("a", io.ins[0], &io.specs[0]),
        b: ops.read("b", io.ins[1], &io.specs[1]),
        y: ops.at("y", io.out.address(), y),
        len: len as u64,
        cols: extent("add", cols)?,
        unused: 0,
    };
    let name = ("add", by_dtype(y.dtype, symbols));
    elementwise::launch(cuda, name, (len, samples), &args, &ops.touches)
}

pub(super) fn add(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    sum(cuda, ADD, io, (1, 1))
}

pub(super) fn add_channels(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    sum(cuda, CHANNELS, io, (io.out_spec.dims[0], io.out_spec.last()))
}

/// `dy`, which is like `y`, to one or two gradients.
pub(super) fn pass_on(cuda: &Cuda, (dy, y): (Buf<'_>, &Spec), grads: &[Grad<'_>]) -> Result<()> {
    let mut ops = Operands::default();
    let mut args =
        GradArgs { dy: ops.read("dy", dy, y), target: [0; 2], len: y.len() as u64, mode: [0; 2] };
    for (k, grad) in grads.iter().take(args.mode.len()).enumerate() {
        (args.target[k], args.mode[k]) = ops.gradient("gradient", grad, y);
    }
    if args.mode == [0; 2] {
        return Ok(());
    }
    let name = ("add", by_dtype(y.dtype, BACKWARD));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn add_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    pass_on(cuda, (io.d_out, io.out_spec), &io.d_ins)
}

/// Rows of one sample and the parts they are summed in.
fn parts(x: &Spec, e: &Spec) -> (usize, usize) {
    let rows = x.len().checked_div(e.len()).unwrap_or(0);
    (rows, rows.div_ceil(PART_ROWS))
}

/// Bytes of the partial sums of `de`.
pub(super) fn scratch_bytes(x: &Spec, e: &Spec) -> usize {
    parts(x, e).1 * e.len() * size_of::<f32>()
}

pub(super) fn add_channels_backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let dy = (io.d_out, io.out_spec);
    pass_on(cuda, dy, &io.d_ins[..1])?;
    if !io.d_ins[1].wanted() {
        return Ok(());
    }
    channel_sums(cuda, dy, (&io.d_ins[1], &io.specs[1]), io.scratch.address())
}

/// The sums of `dy`, which is like `x`, over the rows of each sample to a gradient like `e`; `scratch` holds
/// [`scratch_bytes`].
pub(super) fn channel_sums(
    cuda: &Cuda,
    (dy, x): (Buf<'_>, &Spec),
    (grad, e): (&Grad<'_>, &Spec),
    scratch: u64,
) -> Result<()> {
    if e.is_empty() {
        return Ok(());
    }
    let ((rows, parts), cols) = (parts(x, e), e.last());
    let partial = Touched { what: "partial sums", address: scratch, bytes: scratch_bytes(x, e) };
    if parts > 0 {
        let dy = Touched::new("dy", dy.address(), x);
        let kernel = cuda.kernel::<SumArgs>("add", by_dtype(x.dtype, SUMS))?;
        let args = SumArgs {
            dy: dy.address,
            partial: partial.address,
            rows: extent("add", rows)?,
            cols: extent("add", cols)?,
            part_rows: PART_ROWS as u32,
            unused: 0,
        };
        let blocks = cols.div_ceil(kernel.tile().block_cols as usize);
        let grid = [blocks, parts, e.dims[0]].map(|n| n as u64);
        cuda.launch(&kernel, grid, &args, &[dy, partial])?;
    }
    let mut ops = Operands { touches: vec![partial] };
    let (target, mode) = ops.gradient("de", grad, e);
    let args = TotalArgs {
        partial: partial.address,
        target,
        parts: extent("add", parts)?,
        cols: extent("add", cols)?,
        mode,
        unused: 0,
    };
    let name = ("add", by_dtype(x.dtype, TOTAL));
    elementwise::launch(cuda, name, (cols, e.dims[0]), &args, &ops.touches)
}
