//! Launches of `depthwise.cu`.

use super::Shape;
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent, mode},
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

const OP: &str = "depthwise";
const FORWARD: [&str; 3] =
    ["depthwise_forward_f32", "depthwise_forward_bf16", "depthwise_forward_f16"];
const INPUT: [&str; 3] = ["depthwise_input_f32", "depthwise_input_bf16", "depthwise_input_f16"];
const SUMS: [&str; 3] = ["depthwise_sums_f32", "depthwise_sums_bf16", "depthwise_sums_f16"];
const TOTAL: [&str; 3] = ["depthwise_total_f32", "depthwise_total_bf16", "depthwise_total_f16"];
/// Parts of the positions that a weight's gradient is summed in, at most; fixed, so that the bits are.
const PARTS: usize = 128;
/// Positions of a part at least.
const PART_ROWS: usize = 64;
/// Channels of a block of `sums`; its tile's `block_cols`.
const CHANNELS: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    from: u64,
    weight: u64,
    bias: u64,
    target: u64,
    len: u64,
    h: i32,
    w: i32,
    c: i32,
    kh: i32,
    kw: i32,
    oh: i32,
    ow: i32,
    stride: i32,
    pad: i32,
    mode: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct SumArgs {
    x: u64,
    dy: u64,
    partial: u64,
    dw: u64,
    db: u64,
    positions: i32,
    part_rows: i32,
    parts: i32,
    taps: i32,
    h: i32,
    w: i32,
    c: i32,
    kw: i32,
    oh: i32,
    ow: i32,
    stride: i32,
    pad: i32,
    mode_w: i32,
    mode_b: i32,
}

fn int(n: usize) -> Result<i32> {
    Ok(extent(OP, n)?.cast_signed())
}

/// Positions of a part, and parts.
fn parts(s: &Shape) -> (usize, usize) {
    let positions = s.n * s.oh * s.ow;
    let rows = positions.div_ceil(PARTS).max(PART_ROWS);
    (rows, positions.div_ceil(rows))
}

pub(super) fn backward_scratch(s: &Shape) -> usize {
    parts(s).1 * (s.kh * s.kw + 1) * s.c * size_of::<f32>()
}

fn args(s: &Shape, len: usize) -> Result<Args> {
    int(s.n * s.h * s.w)?; // pixels are counted with 32 bits
    int(s.n * s.oh * s.ow)?;
    Ok(Args {
        from: 0,
        weight: 0,
        bias: 0,
        target: 0,
        len: len as u64,
        h: int(s.h)?,
        w: int(s.w)?,
        c: int(s.c)?,
        kh: int(s.kh)?,
        kw: int(s.kw)?,
        oh: int(s.oh)?,
        ow: int(s.ow)?,
        stride: int(s.stride)?,
        pad: int(s.pad)?,
        mode: OVERWRITE,
    })
}

pub(super) fn forward(s: &Shape, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (y, mut ops) = (io.out_spec, Operands::default());
    let args = Args {
        from: ops.read("x", io.ins[0], &io.specs[0]),
        weight: ops.read("weight", io.ins[1], &io.specs[1]),
        bias: ops.read("bias", io.ins[2], &io.specs[2]),
        target: ops.at("y", io.out.address(), y),
        ..args(s, y.len())?
    };
    let name = (OP, by_dtype(y.dtype, FORWARD));
    elementwise::launch(cuda, name, (y.len(), 1), &args, &ops.touches)
}

pub(super) fn backward(s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, mut ops) = (&io.specs[0], Operands::default());
    if io.d_ins[0].wanted() {
        let from = ops.read("dy", io.d_out, io.out_spec);
        let weight = ops.read("weight", io.ins[1], &io.specs[1]);
        let (target, mode) = ops.gradient("dx", &io.d_ins[0], x);
        let args = Args { from, weight, target, mode, ..args(s, x.len())? };
        let name = (OP, by_dtype(x.dtype, INPUT));
        elementwise::launch(cuda, name, (x.len(), 1), &args, &ops.touches)?;
    }
    if s.c == 0 || !io.d_ins[1].wanted() && !io.d_ins[2].wanted() {
        return Ok(());
    }
    sums(s, cuda, io)
}

/// The weight's and the bias's gradient: sums of the parts of the positions, then their sum.
fn sums(s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let dtype = io.out_spec.dtype;
    let ((part_rows, parts), scaled) = (parts(s), io.d_ins[1].wanted());
    let mut ops = Operands::default();
    let dy = ops.read("dy", io.d_out, io.out_spec);
    let x = if scaled { ops.read("x", io.ins[0], &io.specs[0]) } else { 0 };
    let scratch = io.scratch.address();
    let bytes = backward_scratch(s);
    ops.touches.push(Touched { what: "scratch", address: scratch, bytes });
    let base = args(s, 0)?;
    let mut args = SumArgs {
        x,
        dy,
        partial: scratch,
        dw: 0,
        db: 0,
        positions: int(s.n * s.oh * s.ow)?,
        part_rows: int(part_rows)?,
        parts: int(parts)?,
        taps: int(s.kh * s.kw)?,
        h: base.h,
        w: base.w,
        c: base.c,
        kw: base.kw,
        oh: base.oh,
        ow: base.ow,
        stride: base.stride,
        pad: base.pad,
        mode_w: 0,
        mode_b: 0,
    };
    let (taps, columns) = (s.kh * s.kw + 1, s.c.div_ceil(CHANNELS));
    if parts > 0 {
        let kernel = cuda.kernel::<SumArgs>(OP, by_dtype(dtype, SUMS))?;
        let grid = [columns as u64, taps as u64, parts as u64];
        cuda.launch(&kernel, grid, &args, &ops.touches)?;
    }
    let mut ops = Operands::default();
    ops.touches.push(Touched { what: "scratch", address: scratch, bytes });
    args.mode_w = mode(&io.d_ins[1]);
    args.mode_b = mode(&io.d_ins[2]);
    let grads: [(&'static str, usize, &Spec, &mut u64); 2] =
        [("dw", 1, &io.specs[1], &mut args.dw), ("db", 2, &io.specs[2], &mut args.db)];
    for (what, i, spec, to) in grads {
        *to = ops.gradient(what, &io.d_ins[i], spec).0;
    }
    let kernel = cuda.kernel::<SumArgs>(OP, by_dtype(dtype, TOTAL))?;
    let blocks = (taps * s.c).div_ceil(kernel.tile().block_cols as usize);
    cuda.launch(&kernel, [blocks as u64, 1, 1], &args, &ops.touches)
}
