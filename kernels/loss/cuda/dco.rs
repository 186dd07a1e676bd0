//! Launches of `dco.cu`.

use super::{launch, partial};
use crate::{
    device::Cuda,
    error::Result,
    kernels::elementwise::{self, OVERWRITE, Operands, extent},
    op::{Backward, Forward},
};

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    pred: u64,
    reference: u64,
    target: u64,
    weight: u64,
    dout: u64,
    slope: u64,
    partial: u64,
    out: [u64; 3],
    len: u64,
    channels: u32,
    parts: u32,
    beta: f32,
    mode: [i32; 3],
}

pub(in super::super) fn forward(beta: f32, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let pred = &specs[0];
    let (scratch, parts) = partial(&io.scratch, pred.len(), 1);
    ops.touches.push(scratch);
    let args = Args {
        pred: ops.read("prediction", io.ins[0], pred),
        reference: ops.read("reference", io.ins[1], pred),
        target: ops.read("target", io.ins[2], pred),
        weight: ops.read("weight", io.ins[3], &specs[3]),
        dout: 0,
        slope: ops.at("slope", io.saved[0].address(), io.out_spec),
        partial: scratch.address,
        out: [ops.at("value", io.out.address(), io.out_spec), 0, 0],
        len: pred.len() as u64,
        channels: extent("loss", pred.last())?,
        parts: extent("loss", parts)?,
        beta,
        mode: [OVERWRITE, 0, 0],
    };
    launch(cuda, "dco_forward", [parts, 1], &args, &ops.touches)?;
    launch(cuda, "dco_value", [1, 1], &args, &ops.touches)
}

pub(in super::super) fn backward(beta: f32, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (specs, pred) = (io.specs, &io.specs[0]);
    let passes = [("dco_backward", 0..3, pred.len()), ("dco_weight", 3..4, specs[3].len())];
    for (symbol, which, len) in passes {
        let (mut ops, mut out, mut mode) = (Operands::default(), [0; 3], [0; 3]);
        for (slot, i) in which.enumerate() {
            (out[slot], mode[slot]) = ops.gradient("gradient", &io.d_ins[i], &specs[i]);
        }
        if mode == [0; 3] {
            continue;
        }
        let args = Args {
            pred: ops.read("prediction", io.ins[0], pred),
            reference: ops.read("reference", io.ins[1], pred),
            target: ops.read("target", io.ins[2], pred),
            weight: ops.read("weight", io.ins[3], &specs[3]),
            dout: ops.read("dout", io.d_out, io.out_spec),
            slope: ops.read("slope", io.saved[0], io.out_spec),
            partial: 0,
            out,
            len: pred.len() as u64,
            channels: extent("loss", pred.last())?,
            parts: 0,
            beta,
            mode,
        };
        elementwise::launch(cuda, ("loss", symbol), (len, 1), &args, &ops.touches)?;
    }
    Ok(())
}
