//! A part of the last axis.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y[.., i] = x[.., from + i]` for `i < len`.
///
/// # Shapes
/// `x: [.., C]` with `from + len <= C`, `y: [.., len]`; f32, bf16 or f16.
/// # Gradient
/// `dx` is `dy` in its place and 0 elsewhere; keeps nothing.
/// # Errors
/// A scalar, a part that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first element.
    pub from: usize,
    /// How many.
    pub len: usize,
}

impl Op for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        let end = self.from.checked_add(self.len);
        match ins[0].dims.split_last() {
            Some((c, lead)) if end.is_some_and(|end| end <= *c) => {
                Ok(Signature::of(ins[0].with(&[lead, &[self.len]].concat())))
            }
            _ => {
                let want = format!("[.., at least {} + {}]", self.from, self.len);
                Err(check::shape(self.name(), "x", &ins[0], want))
            }
        }
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: 2.0 * out.bytes() as f64 }
    }
    fn backward_cost(&self, ins: &[Spec], out: &Spec, _: &[bool]) -> Cost {
        Cost { flop: 0.0, bytes: (ins[0].bytes() + out.bytes()) as f64 }
    }
    fn detail(&self) -> String {
        format!("{}..{}", self.from, self.from + self.len)
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(*self, io),
            |cuda, io| cuda::forward(*self, cuda, io),
        )
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(*self, io),
            |cuda, io| cuda::backward(*self, cuda, io),
        )
    }
}
