//! `y = scale x + shift` with two constants.

pub mod cases;
mod cpu;

use crate::{
    device::Device,
    error::{Error, Result},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Scales and shifts every element by constants.
///
/// `y = scale x + shift`: the strength of a further adapter, a residual divisor, a centred input.
///
/// # Shapes
/// Any `x`; `y` has the same.
///
/// # Gradient
/// `dx = scale dy`; reads nothing of forward.
///
/// # Numerics
/// f32, one multiply-add an element: bitwise the same on every run.
///
/// # Errors
/// [`Error::Shape`] unless there is exactly one input.
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
        match ins {
            [x] => Ok(Signature::of(x.clone())),
            _ => Err(Error::Shape {
                at: self.name().into(),
                what: "inputs",
                got: vec![ins.len()],
                want: "one".into(),
            }),
        }
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
        match io.device {
            Device::Cpu => cpu::forward(self, io),
            other => return Err(super::no_kernel(self.name(), other)),
        }
        Ok(())
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::backward(self, io),
            other => return Err(super::no_kernel(self.name(), other)),
        }
        Ok(())
    }
}
