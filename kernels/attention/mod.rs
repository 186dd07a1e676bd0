//! Scaled dot-product attention over heads.

mod added;
mod backward;
mod bf16;
mod bias;
mod block;
pub mod cases;
mod cpu;
mod cuda;

pub use bias::{Bias, BiasedAttention};
pub use cuda::{BACKWARD, FORWARD, Problem};

use crate::{
    device::{Cuda, cpu::bf16::Unit},
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::{DType, Spec},
};

/// Softmax attention of every head, without ever holding the whole score matrix.
///
/// `o[i] = sum_j p[i, j] v[j]`, `p[i, j] = exp(scale q[i] . k[j] - lse[i])`,
/// `lse[i] = log sum_j exp(scale q[i] . k[j])`; with `causal`, only `j <= i` take part.
///
/// # Shapes
/// `q: [N, Lq, H, D]`, `k, v: [N, Lk, H, D]` gives `[N, Lq, H, D]`; all of one float type, any `D`.
/// Saves `lse: [N, Lq, H]` f32.
///
/// # Gradient
/// With `delta[i] = do[i] . o[i]` and `ds = p (do v^T - delta)`: `dv = p^T do`,
/// `dq = scale ds k`, `dk = scale ds^T q`; `p` is recomputed from `lse`. Keeps `q, k, v`, the output, `lse`.
///
/// # Numerics
/// f32 with a running maximum; `exp` to 2 ulp. Bitwise repeatable for a given number of threads. With `products` bf16 a
/// CPU that multiplies such numbers rounds `q`, `k`, `v`, `do`, `p` and `ds` before their products. The tensor-core
/// kernels round `p` and `ds` to the operands' type before the products they enter; every sum is f32.
///
/// # Errors
/// `infer` refuses operands of other ranks, `k` or `v` that do not fit `q`, and an empty `Lk` or `D`.
///
/// # Source
/// Dao et al. 2022 (FlashAttention), algorithms 1 and 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Whether a query sees only keys up to its own position.
    pub causal: bool,
    /// Factor on the scores, usually `1 / sqrt(D)`.
    pub scale: f32,
    /// What the CPU rounds operands of products to: bf16 where the processor multiplies such numbers, else f32.
    pub products: DType,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    cuda::slots()
}

impl Attention {
    /// What multiplies on the CPU, where it is not f32.
    fn unit(&self) -> Option<Unit> {
        Unit::of(self.products)
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let dtype = check::float_inputs(at, ins, &["q", "k", "v"])?;
        let (q, k) = (&ins[0], &ins[1]);
        let [n, lq, h, d] = q.dims[..] else {
            return Err(check::shape(at, "q", q, "[N, Lq, H, D]".into()));
        };
        if k.dims.len() != 4 || k.dims[1] == 0 || d == 0 {
            let want = format!("[{n}, Lk, {h}, {d}] with Lk and D above 0");
            return Err(check::shape(at, "k", k, want));
        }
        check::dims(at, "k", k, &[n, k.dims[1], h, d], "as q has")?;
        check::dims(at, "v", &ins[2], &k.dims, "as k")?;
        let shape = cpu::Shape::of(ins, *self);
        let mut signature = Signature {
            out: q.clone(),
            saved: vec![Spec::f32(&[n, lq, h])],
            forward_scratch: 0,
            backward_scratch: cuda::scratch(self, dtype, &q.dims, k.dims[1]),
        };
        if dtype == DType::F32 {
            signature.forward_scratch = match self.unit() {
                Some(_) => bf16::forward_scratch(shape),
                None => shape.forward_scratch(),
            };
            let of_cpu = backward::Parts::of(shape, [0, 0]).scratch();
            signature.backward_scratch = signature.backward_scratch.max(of_cpu);
        }
        Ok(signature)
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        match wants {
            [false, false, false] => Keeps::default(),
            // dv needs the probabilities only
            [false, false, true] => Keeps { ins: vec![0, 1], out: false, saved: true },
            _ => Keeps { ins: vec![0, 1, 2], out: true, saved: true },
        }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let lk = ins[1].dims.get(1).copied().unwrap_or(0) as f64;
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        let half = if self.causal { 0.5 } else { 1.0 };
        Cost { flop: half * 4.0 * out.len() as f64 * lk, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        // forward is two products; backward recomputes the scores
        let scores = if wants[0] || wants[1] { 2.0 } else { 1.0 };
        let products = scores + wants.iter().filter(|w| **w).count() as f64;
        Cost { flop: one.flop / 2.0 * products, bytes: 2.0 * one.bytes }
    }

    fn detail(&self) -> String {
        let causal = if self.causal { "causal" } else { "" };
        match self.unit() {
            None => causal.into(),
            Some(unit) => format!("{causal} bf16 on {}", unit.name()).trim_start().into(),
        }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _out: &Spec, backward: bool) -> String {
        cuda::name(self, cuda, ins, backward)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| match self.unit() {
                Some(unit) => bf16::forward(unit, cpu::Shape::of(io.specs, *self), io),
                None => cpu::forward(*self, added::Added::Nothing, io),
            },
            |cuda, io| cuda::forward(self, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| backward::backward(*self, (added::Added::Nothing, [0, 0]), io),
            |cuda, io| cuda::backward(self, cuda, io),
        )
    }
}
