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

/// `[a, b]` of what has been checked to be of one type, for the operation `at`.
///
/// # Errors
/// [`Error::Shape`](crate::error::Error::Shape) for other leading axes.
pub(crate) fn joined(at: &str, a: &Spec, b: &Spec) -> Result<Spec> {
    let mut dims = a.dims.clone();
    let lead = |s: &Spec| s.dims[..s.dims.len().saturating_sub(1)].to_vec();
    if dims.is_empty() || a.dims.len() != b.dims.len() || lead(a) != lead(b) {
        let want = format!("{:?} but for the last axis (as a)", a.dims);
        return Err(check::shape(at, "b", b, want));
    }
    if let Some(d) = dims.last_mut() {
        *d += b.last();
    }
    Ok(a.with(&dims))
}

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["a", "b"])?;
        Ok(Signature::of(joined(self.name(), &ins[0], &ins[1])?))
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
