//! Matrix product with a weight in `[out, in]` layout.

pub(crate) mod adapted;
pub(crate) mod adapter;
mod batched;
pub mod cases;
pub mod concat;
pub(crate) mod cpu;
pub(crate) mod cuda;
mod effort;
pub mod fused;
pub mod gated;
pub mod joined;
mod narrow;
pub(crate) mod parts;
pub(crate) mod problem;
mod product;
pub(crate) mod sums;
mod tensor;
mod tiles;
pub(crate) mod tilings;

pub use batched::BatchedLinear;

use crate::{
    device::Cuda,
    error::Result,
    kernels::{check, frame, geglu::Geglu},
    op::{Backward, Cost, Forward, Keeps, Later, Op, Signature},
    tensor::Spec,
};

/// A fully connected layer over the last axis.
///
/// `y[i, n] = sum_k x[i, k] w[n, k] + b[n]`
///
/// # Shapes
/// `x: [.., K]`, `w: [N, K]`, `b: [N]` (only with `bias`) gives `[.., N]`; all of one float type. On the CPU a frozen
/// `w` may be bf16 or f16 beside f32.
///
/// # Gradient
/// `dx = dy w`, `dw = dy^T x`, `db = sum_i dy[i]`. Keeps `w` for `dx` and `x` for `dw`.
///
/// # Numerics
/// f32 accumulation, rounded once; bitwise repeatable (on the CPU whatever the number of threads). On the CPU with a
/// `w` in bf16 `x` and `dy` are rounded to bf16 where the processor multiplies such numbers ([`Unit`]); elsewhere, and
/// in f16, `w` is widened to f32.
///
/// [`Unit`]: crate::device::cpu::bf16::Unit
///
/// # Errors
/// `infer` refuses a weight that does not fit `x` and a bias that does not fit the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// Whether the third input, a bias, is there.
    pub bias: bool,
}

impl Linear {
    fn names(self) -> &'static [&'static str] {
        if self.bias { &["x", "weight", "bias"] } else { &["x", "weight"] }
    }
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    [tiles::slots(), fused::slots(), gated::slots(), joined::slots(), concat::slots()].concat()
}

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::product_inputs("linear", ins, self.names())?;
        let out = output("linear", &ins[0], &ins[1], ins.get(2))?;
        let (rows, k) = (rows(&ins[0]), ins[0].last());
        let (n, stored) = (out.last(), check::stored_weight(ins));
        let forward = cuda::forward_scratch(&ins[0], &out);
        let backward = cuda::backward_scratch(&ins[0], &out, self.bias);
        Ok(Signature {
            forward_scratch: cpu::forward_scratch([rows, n, k], stored).max(forward),
            backward_scratch: cpu::backward_scratch([rows, n, k], stored).max(backward),
            ..Signature::of(out)
        })
    }

    fn followed_by(&self, next: &dyn Op, _: usize, later: Later) -> Option<Box<dyn Op>> {
        // computed again it stays apart: one backward step would need the memory of both
        if later == Later::Backward && (next as &dyn std::any::Any).is::<Geglu>() {
            return Some(Box::new(gated::GatedLinear { bias: self.bias }));
        }
        fused::behind(self.bias, next, later != Later::Nothing)
            .map(|op| Box::new(op) as Box<dyn Op>)
    }

    fn beside(&self, count: usize, trained: &[bool], backward: bool) -> Option<Box<dyn Op>> {
        let joined = joined::Joined { bias: self.bias, parts: count };
        let fits = (2..=joined::MOST).contains(&count) && !backward && !trained.contains(&true);
        fits.then(|| Box::new(joined) as Box<dyn Op>)
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let mut keeps = Keeps::default();
        if wants[1] {
            keeps.ins.push(0);
        }
        if wants[0] {
            keeps.ins.push(1);
        }
        keeps
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        Cost { flop: 2.0 * out.len() as f64 * ins[0].last() as f64, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        let products = f64::from(u8::from(wants[0]) + u8::from(wants[1]));
        Cost { flop: one.flop * products, bytes: one.bytes * products }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let [forward, input, weight] = cuda::problems(&ins[0], out);
        if !backward {
            return forward.describe(cuda);
        }
        format!("dx {}, dw {}", input.describe(cuda), weight.describe(cuda))
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(io),
            |cuda, io| {
                check::gpu_weight(self.name(), io.specs)?;
                cuda::forward(cuda, io)
            },
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        check::frozen_half(self.name(), io.specs, io.d_ins[1].wanted())?;
        frame::backward(
            self.name(),
            io,
            |io| cpu::backward(io),
            |cuda, io| {
                check::gpu_weight(self.name(), io.specs)?;
                cuda::backward(cuda, io)
            },
        )
    }
}

/// The output of `x w^T + b`, or why the shapes do not fit.
pub(crate) fn output(at: &str, x: &Spec, w: &Spec, bias: Option<&Spec>) -> Result<Spec> {
    let Some((k, lead)) = x.dims.split_last() else {
        return Err(check::shape(at, "x", x, "at least one axis, [.., K]".into()));
    };
    let fits = w.dims.len() == 2 && w.dims[1] == *k;
    if !fits {
        let want = format!("[N, {k}] for x {:?}; check the weight's name and layout", x.dims);
        return Err(check::shape(at, "weight", w, want));
    }
    let n = w.dims[0];
    if let Some(b) = bias {
        check::dims(at, "bias", b, &[n], "as the weight has that many outputs")?;
    }
    Ok(x.with(&[lead, &[n]].concat()))
}

/// Rows of the matrix that `x` is; also right when the last axis is empty.
pub(crate) fn rows(x: &Spec) -> usize {
    x.dims.iter().rev().skip(1).product()
}
