//! Elementwise products.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y = a b`, element by element: gated layers (SwiGLU), learned scales of a channel.
///
/// # Shapes
/// `a, b, y` the same; f32, bf16 or f16.
/// # Gradient
/// `da = b dy`, `db = a dy`; keeps `b` for `da`, `a` for `db`.
/// # Numerics
/// One product in f32, one rounding: bitwise the same on every run.
/// # Errors
/// Different dims.
/// # Source
/// methods.md §3.7 (LayerScale, SwiGLU).
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

impl Op for Multiply {
    fn name(&self) -> &'static str {
        "multiply"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["a", "b"])?;
        check::dims(self.name(), "b", &ins[1], &ins[0].dims, "(as a)")?;
        Ok(Signature::of(ins[0].clone()))
    }
    fn keeps(&self, wants: &[bool]) -> Keeps {
        let needed = [(0, wants[1]), (1, wants[0])];
        let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
        Keeps { ins, ..Keeps::default() }
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: ins[0].len() as f64, bytes: 3.0 * ins[0].bytes() as f64 }
    }
    fn backward_cost(&self, ins: &[Spec], _: &Spec, wants: &[bool]) -> Cost {
        let n = wants.iter().filter(|w| **w).count() as f64;
        Cost { flop: n * ins[0].len() as f64, bytes: (1.0 + 2.0 * n) * ins[0].bytes() as f64 }
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
