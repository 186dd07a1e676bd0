//! Launches of `masked_mse.cu`.

use super::{launch, partial};
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        elementwise::{self, OVERWRITE, Operands, extent},
        loss::extents,
    },
    op::{Backward, Forward},
    tensor::Spec,
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    pred: u64,
    target: u64,
    weight: u64,
    coefficient: u64,
    dout: u64,
    saved: u64,
    partial: u64,
    out: [u64; 2],
    each: u64,
    channels: u32,
    samples: u32,
    parts: u32,
    mode: [i32; 2],
    unused: i32,
}

/// Extents of one call; no operand yet.
fn extent_args(pred: &Spec, parts: usize) -> Result<Args> {
    let (each, channels) = extents(pred);
    Ok(Args {
        each: each as u64,
        channels: extent("loss", channels)?,
        samples: extent("loss", pred.dims[0])?,
        parts: extent("loss", parts)?,
        mode: [OVERWRITE, 0],
        ..bytemuck::Zeroable::zeroed()
    })
}

pub(in super::super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let (pred, samples) = (&specs[0], specs[0].dims[0]);
    let (scratch, parts) = partial(&io.scratch, extents(pred).0, samples);
    ops.touches.push(scratch);
    let args = Args {
        pred: ops.read("prediction", io.ins[0], pred),
        target: ops.read("target", io.ins[1], pred),
        weight: ops.read("weight", io.ins[2], &specs[2]),
        coefficient: ops.read("coefficient", io.ins[3], &specs[3]),
        saved: ops.at("gradient", io.saved[0].address(), pred),
        partial: scratch.address,
        out: [ops.at("value", io.out.address(), io.out_spec), 0],
        ..extent_args(pred, parts)?
    };
    launch(cuda, "masked_mse_forward", [parts, samples], &args, &ops.touches)?;
    launch(cuda, "masked_mse_value", [1, 1], &args, &ops.touches)
}

/// Gradients of prediction and target from the saved one.
fn backward_saved(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (pred, mut ops) = (&io.specs[0], Operands::default());
    let (d_pred, pred_mode) = ops.gradient("d prediction", &io.d_ins[0], pred);
    let (d_target, target_mode) = ops.gradient("d target", &io.d_ins[1], pred);
    if pred_mode == 0 && target_mode == 0 {
        return Ok(());
    }
    let args = Args {
        dout: ops.read("dout", io.d_out, io.out_spec),
        saved: ops.read("gradient", io.saved[0], pred),
        out: [d_pred, d_target],
        mode: [pred_mode, target_mode],
        ..extent_args(pred, 0)?
    };
    let name = ("loss", "masked_mse_backward");
    elementwise::launch(cuda, name, (pred.len(), 1), &args, &ops.touches)
}

pub(in super::super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    backward_saved(cuda, io)?;
    let specs = io.specs;
    let (pred, samples) = (&specs[0], specs[0].dims[0]);
    let (scratch, parts) = partial(&io.scratch, extents(pred).0, samples);
    for which in [2, 3] {
        let mut ops = Operands::default();
        let (out, mode) = ops.gradient("gradient", &io.d_ins[which], &specs[which]);
        if mode == 0 {
            continue;
        }
        let args = Args {
            pred: ops.read("prediction", io.ins[0], pred),
            target: ops.read("target", io.ins[1], pred),
            weight: ops.read("weight", io.ins[2], &specs[2]),
            coefficient: ops.read("coefficient", io.ins[3], &specs[3]),
            dout: ops.read("dout", io.d_out, io.out_spec),
            partial: scratch.address,
            out: [out, 0],
            mode: [mode, 0],
            ..extent_args(pred, parts)?
        };
        if which == 2 {
            let name = ("loss", "masked_mse_weight");
            elementwise::launch(cuda, name, (specs[2].len(), 1), &args, &ops.touches)?;
        } else {
            coefficients(cuda, [parts, samples], &args, (&ops.touches, scratch))?;
        }
    }
    Ok(())
}

/// The two stages of the gradient of the coefficients.
fn coefficients(
    cuda: &Cuda,
    grid: [usize; 2],
    args: &Args,
    (touches, scratch): (&[Touched], Touched),
) -> Result<()> {
    let touches = [touches, &[scratch]].concat();
    launch(cuda, "masked_mse_coefficient_sums", grid, args, &touches)?;
    launch(cuda, "masked_mse_coefficient", [grid[1], 1], args, &touches)
}
