//! Joins two values along the last axis.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y[.., :A] = a`, `y[.., A:] = b`: skip connections, the two text encoders.
///
/// # Shapes
/// `a: [.., A]`, `b: [.., B]`, `y: [.., A + B]`; f32, bf16 or f16.
/// # Gradient
/// The two slices of `dy`; keeps nothing.
/// # Errors
/// Different leading axes.
#[derive(Clone, Copy, Debug)]
pub struct Concat;

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["a", "b"])?;
        let mut dims = ins[0].dims.clone();
        let lead = |s: &Spec| s.dims[..s.dims.len().saturating_sub(1)].to_vec();
        if dims.is_empty()
            || ins[0].dims.len() != ins[1].dims.len()
            || lead(&ins[0]) != lead(&ins[1])
        {
            let want = format!("{:?} but for the last axis (as a)", ins[0].dims);
            return Err(check::shape(self.name(), "b", &ins[1], want));
        }
        if let Some(d) = dims.last_mut() {
            *d += ins[1].last();
        }
        Ok(Signature::of(ins[0].with(&dims)))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: 2.0 * out.bytes() as f64 }
    }
    fn backward_cost(&self, _: &[Spec], out: &Spec, _: &[bool]) -> Cost {
        Cost { flop: 0.0, bytes: 2.0 * out.bytes() as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(self.name(), io, |io| cpu::forward(io), |cuda, io| cuda::forward(cuda, io))
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(io),
            |cuda, io| cuda::backward(cuda, io),
        )
    }
}
