//! Normalisation over the last axis.

pub mod cases;
mod cpu;
pub mod cuda;

use crate::{
    device::Cuda,
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Layer normalisation: every row gets mean 0 and variance 1, then a scale and a shift per channel.
///
/// `y = (x - mean) rstd gamma + beta`, `rstd = 1 / sqrt(var + eps)`, the biased variance of the
/// row.
///
/// # Shapes
/// `x: [.., C]`, `gamma, beta: [C]` gives `[.., C]`, of one float type. Saves mean and rstd,
/// `[rows]` f32 each.
///
/// # Gradient
/// With `h = (x - mean) rstd` and `g = dy gamma`: `dx = rstd (g - mean(g) - h mean(g h))`,
/// `dgamma = sum dy h`, `dbeta = sum dy`. Keeps `x`, the saved statistics, and `gamma` for `dx`.
///
/// # Numerics
/// f32 for every storage type; two passes over a row (mean, then squared distances); sums over rows
/// by blocks in an order that the shape fixes, so bitwise repeatable on the CPU and on every chip.
///
/// # Errors
/// `infer` refuses a scalar `x`, an empty last axis, and a `gamma` or `beta` of another length.
///
/// # Source
/// Ba, Kiros, Hinton 2016, eq. 3 and 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    cuda::slots()
}

impl Op for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        check::float_inputs(at, ins, &["x", "gamma", "beta"])?;
        let x = &ins[0];
        if x.dims.is_empty() || x.last() == 0 {
            return Err(check::shape(at, "x", x, "[.., C] with C > 0".into()));
        }
        check::dims(at, "gamma", &ins[1], &[x.last()], "as the last axis of x")?;
        check::dims(at, "beta", &ins[2], &[x.last()], "as the last axis of x")?;
        let (rows, c) = x.rows_cols();
        let saved = vec![Spec::f32(&[rows]), Spec::f32(&[rows])];
        let backward_scratch = cpu::backward_scratch(rows, c).max(cuda::backward_scratch(x));
        Ok(Signature { saved, backward_scratch, ..Signature::of(x.clone()) })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let mut ins = vec![];
        if wants[0] || wants[1] {
            ins.push(0);
        }
        if wants[0] {
            ins.push(1);
        }
        Keeps { saved: !ins.is_empty(), ins, out: false }
    }

    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 8.0 * out.len() as f64, bytes: 2.0 * out.bytes() as f64 }
    }

    fn backward_cost(&self, _: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let tensors = if wants[0] { 3.0 } else { 2.0 };
        Cost { flop: 14.0 * out.len() as f64, bytes: tensors * out.bytes() as f64 }
    }

    fn detail(&self) -> String {
        format!("eps {:e}", self.eps)
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _: &Spec, backward: bool) -> String {
        let name = ins.first().map(|x| cuda::choose(cuda, x, backward));
        name.and_then(Result::ok).unwrap_or_default().into()
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(self.eps, io),
            |cuda, io| cuda::forward(*self, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(io),
            |cuda, io| cuda::backward(*self, cuda, io),
        )
    }
}
