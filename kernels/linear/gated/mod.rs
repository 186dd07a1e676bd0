//! A layer with its GEGLU where a backward pass follows, alone and with the layer behind it.

mod cpu;
mod cuda;
mod feed_forward;
mod launch;
mod places;

pub use feed_forward::FeedForward;

use super::Linear;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{check, frame, linear::fused::FusedLinear, linear::fused::Then},
    op::{Backward, Cost, Forward, Keeps, Later, Op, Signature},
    tensor::Spec,
};
use places::{sums, values};
use std::any::Any;

/// A fully connected layer and its GEGLU, with what their backward pass needs.
///
/// `y = v gelu(g)` with `[v, g] = x w^T + b`, erf GELU
///
/// # Shapes
/// `x: [.., K]`, `w: [2 D, K]`, `b: [2 D]` (only with `bias`); `y: [.., D]`; all of one float type. On the CPU a frozen `w`
/// may be bf16 or f16 beside f32.
///
/// # Gradient
/// `dv = gelu(g) dy`, `dg = v gelu'(g) dy`, then those of [`Linear`] from `[dv, dg]`, which lies in scratch. Saves `[v, g]`;
/// keeps `w` for `dx` and `x` for `dw`.
///
/// # Numerics
/// As [`Linear`]; on a Hopper GPU `y` is made of the sums before `v` and `g` are rounded.
///
/// # Errors
/// `infer` refuses what [`Linear`] does and an odd width.
///
/// # Source
/// methods.md §3.1 (`ff.net.0`). Training plans make it of [`Linear`] and [`Geglu`](crate::kernels::geglu::Geglu).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatedLinear {
    /// Whether the third input is a bias.
    pub bias: bool,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<crate::kernels::variant::Slot> {
    launch::slots()
}

impl GatedLinear {
    fn layer(self) -> Linear {
        Linear { bias: self.bias }
    }
}

impl Op for GatedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let sums = sums(self.name(), self.bias, ins)?;
        let (layer, stored) = (self.layer().infer(ins)?, check::stored_weight(ins));
        let [forward, backward] = cuda::layer_scratch(&ins[0], &sums);
        let of_sums = cpu::aligned(sums.bytes());
        Ok(Signature {
            forward_scratch: cpu::layer_scratch(&ins[0], &sums, stored).max(forward),
            backward_scratch: layer.backward_scratch.max(backward).saturating_add(of_sums),
            saved: vec![sums.clone()],
            ..Signature::of(values(&sums))
        })
    }

    fn followed_by(&self, next: &dyn Op, at: usize, later: Later) -> Option<Box<dyn Op>> {
        let next: &dyn Any = next;
        let (second, residual) = match (next.downcast_ref(), next.downcast_ref()) {
            (Some(Linear { bias }), _) => (*bias, false),
            (_, Some(FusedLinear { bias, residual, then: Then::Nothing })) => (*bias, *residual),
            _ => return None,
        };
        let op = FeedForward { bias: [self.bias, second], residual };
        (later == Later::Backward && at == 0).then(|| Box::new(op) as Box<dyn Op>)
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        Keeps { saved: wants.contains(&true), ..self.layer().keeps(wants) }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes: f64 = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        let flop = 4.0 * out.len() as f64 * ins[0].last() as f64;
        Cost { flop, bytes: bytes + 2.0 * out.bytes() as f64 }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        let products = f64::from(u8::from(wants[0]) + u8::from(wants[1]));
        Cost { flop: one.flop * products, bytes: one.bytes * products + 5.0 * out.bytes() as f64 }
    }

    fn detail(&self) -> String {
        "GEGLU, values and gates kept".into()
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let sums = out.with(&[super::rows(&ins[0]), 2 * out.last()]);
        if backward {
            return self.layer().variant(cuda, ins, &sums, true);
        }
        cuda::describe_layer(cuda, &ins[0], &sums)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let name = self.name();
        frame::forward(name, io, cpu::forward, |cuda, io| {
            check::gpu_weight(name, io.specs)?;
            cuda::forward(cuda, io)
        })
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        let name = self.name();
        check::frozen_half(name, io.specs, io.d_ins[1].wanted())?;
        frame::backward(name, io, cpu::backward, |cuda, io| {
            check::gpu_weight(name, io.specs)?;
            cuda::backward(cuda, io)
        })
    }
}
