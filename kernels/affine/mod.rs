//! `y = scale x + shift` with two constants.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Scales and shifts every element by constants.
///
/// `y = scale x + shift`: the strength of a further adapter, a residual divisor, a centred input.
///
/// # Shapes
/// Any `x`, f32, bf16 or f16; `y` has the same.
///
/// # Gradient
/// `dx = scale dy`; reads nothing of forward.
///
/// # Numerics
/// One multiply-add an element in f32: bitwise the same on every run.
///
/// # Errors
/// [`crate::error::Error::Plan`] unless there is exactly one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The factor.
    pub scale: f32,
    /// What is added.
    pub shift: f32,
}

impl Op for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        Ok(Signature::of(ins[0].clone()))
    }

    fn keeps(&self, _wants: &[bool]) -> Keeps {
        Keeps::default()
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 2.0 * out.len() as f64, bytes: bytes as f64 }
    }

    fn detail(&self) -> String {
        format!("{} x + {}", self.scale, self.shift)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(self, io),
            |cuda, io| cuda::forward(self, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(self, io),
            |cuda, io| cuda::backward(self, cuda, io),
        )
    }
}
