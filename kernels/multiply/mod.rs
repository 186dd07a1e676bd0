//! Elementwise products, and products with a factor a channel.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y = a b`, element by element: gated layers (SwiGLU).
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
/// methods.md §3.7 (SwiGLU).
#[derive(Clone, Copy, Debug)]
pub struct Multiply;

/// `y[.., c] = x[.., c] s[c]`: learned scales (LayerScale), a mask of features.
///
/// # Shapes
/// `x: [.., C]`, `s: [C]`, `y` as `x`; f32, bf16 or f16.
/// # Gradient
/// `dx = s dy`, `ds[c]` = sum of `x[.., c] dy[.., c]` over the rows; keeps `s` for `dx`, `x` for `ds`.
/// # Numerics
/// One product in f32, one rounding. `ds` in f32 on a device, 256 rows a part and the parts in order, in f64 on the
/// CPU. Bitwise the same on every run.
/// # Errors
/// Other dims of `s`, an `x` without an axis.
/// # Source
/// methods.md §3.7 (LayerScale), §2.2 (the adapter's mask).
#[derive(Clone, Copy, Debug)]
pub struct MultiplyChannels;

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
        other_factors(wants)
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

impl Op for MultiplyChannels {
    fn name(&self) -> &'static str {
        "multiply_channels"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x", "s"])?;
        if ins[0].dims.is_empty() {
            return Err(check::shape(self.name(), "x", &ins[0], "[.., C]".into()));
        }
        check::dims(self.name(), "s", &ins[1], &[ins[0].last()], "(last axis of x)")?;
        let backward_scratch = cuda::scratch_bytes(&ins[0]);
        Ok(Signature { backward_scratch, ..Signature::of(ins[0].clone()) })
    }
    fn keeps(&self, wants: &[bool]) -> Keeps {
        other_factors(wants)
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        let bytes = 2 * ins[0].bytes() + ins[1].bytes();
        Cost { flop: ins[0].len() as f64, bytes: bytes as f64 }
    }
    fn backward_cost(&self, ins: &[Spec], _: &Spec, wants: &[bool]) -> Cost {
        let passes = wants.iter().zip([1.0, 2.0]).filter(|(w, _)| **w);
        let flop: f64 = passes.map(|(_, flop)| flop).sum();
        let n = wants.iter().filter(|w| **w).count();
        let bytes = n * (2 * ins[0].bytes() + ins[1].bytes());
        Cost { flop: flop * ins[0].len() as f64, bytes: bytes as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(self.name(), io, |io| cpu::channels(io), |cuda, io| cuda::channels(cuda, io))
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::channels_backward(io),
            |cuda, io| cuda::channels_backward(cuda, io),
        )
    }
}

/// Each gradient of a product reads the other factor.
fn other_factors(wants: &[bool]) -> Keeps {
    let needed = [(0, wants[1]), (1, wants[0])];
    let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
    Keeps { ins, ..Keeps::default() }
}
