//! Gated GELU.

pub mod cases;
pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y = a gelu(g)` with `[a, g] = x` split in halves along the last axis; erf GELU.
///
/// # Shapes
/// `x: [.., 2D]`, `y: [.., D]`, f32, bf16 or f16.
/// # Gradient
/// `da = gelu(g) dy`, `dg = a gelu'(g) dy`; keeps `x`.
/// # Errors
/// An odd last axis.
/// # Source
/// methods.md §3.1 (`ff.net.0.proj`).
#[derive(Clone, Copy, Debug)]
pub struct Geglu;

impl Op for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x"])?;
        let mut dims = ins[0].dims.clone();
        match dims.last_mut() {
            Some(d) if *d % 2 == 0 => *d /= 2,
            _ => return Err(check::shape(self.name(), "x", &ins[0], "an even last axis".into())),
        }
        Ok(Signature::of(ins[0].with(&dims)))
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![0], ..Keeps::default() }
    }
    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: (ins[0].bytes() + out.bytes()) as f64 }
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
