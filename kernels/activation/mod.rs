//! Elementwise activations.

pub mod cases;
mod cpu;
mod cuda;

pub(crate) use cpu::{elu, gelu, gelu_slope};

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `x sigmoid(x)`.
    Silu,
    /// `x Phi(x)` with the exact normal distribution function.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `tanh(x)`.
    Tanh,
    /// `x` above 0, `exp(x) - 1` below.
    Elu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
}

/// `y = f(x)`.
///
/// # Shapes
/// `x`: any, `y` the same; f32, bf16 or f16.
/// # Gradient
/// `dx = f'(x) dy`; keeps `x`.
/// # Numerics
/// f32; exp within 2 ulp, erf within 1e-6.
/// # Source
/// methods.md §3.0; the sigmoid is the mask of §2.2.
#[derive(Clone, Copy, Debug)]
pub struct Activation {
    /// The function.
    pub kind: Kind,
}

impl Op for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        Ok(Signature::of(ins[0].clone()))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![0], ..Keeps::default() }
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: 2.0 * ins[0].bytes() as f64 }
    }
    fn detail(&self) -> String {
        format!("{:?}", self.kind)
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(self.kind, io),
            |cuda, io| cuda::forward(self.kind, cuda, io),
        )
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(self.kind, io),
            |cuda, io| cuda::backward(self.kind, cuda, io),
        )
    }
}
