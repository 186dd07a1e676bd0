//! Several adapted layers on one input.

mod cpu;
mod cuda;

use super::Shape;
use crate::{
    device::Cuda,
    error::{Error, Result},
    kernels::{
        check, frame,
        linear::{self, joined::alike},
    },
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Adapted layers of one width and rank on one input: queries, keys and values of a self-attention.
///
/// `y_p = x w_p^T + b_p + h_p up_p^T` with `h_p = scale x a_p^T`
///
/// # Shapes
/// `x: [.., K]`, of each part `w: [N, K]` and (only with `bias`) `b: [N]`, then of all parts, one behind the other,
/// `a: [parts r, K]` and `up: [parts N, r]`; `y: [parts, .., N]`; saves `h`, `rows parts r` numbers in the device's order;
/// all of one float type. On the CPU frozen weights may be bf16 or f16 beside f32.
///
/// # Gradient
/// With `g_p = scale dy_p up_p`: `dx = sum_p (dy_p w_p + g_p a_p)`, `da_p = g_p^T x`, `dup_p = dy_p^T h_p`. Weights and
/// biases are frozen: their gradients are refused.
///
/// # Numerics
/// As [`super::LoraLinear`], of which each part is one. On a GPU with kernels for all parts `dx` is one sum, rounded once;
/// elsewhere (on the CPU too) it is added up part by part, the last one first, as separate layers would.
///
/// # Errors
/// `infer` refuses what [`super::LoraLinear`] does, parts of other widths or types, fewer than 2 and more than
/// [`linear::joined::MOST`].
///
/// # Source
/// Hu et al., LoRA, 2021, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JoinedLora {
    /// Whether every part has a bias.
    pub bias: bool,
    /// Number of parts.
    pub parts: usize,
    /// Factor of the adapters, alpha / r.
    pub scale: f32,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<crate::kernels::variant::Slot> {
    cuda::slots()
}

impl JoinedLora {
    /// Frozen inputs of one part.
    fn each(self) -> usize {
        1 + usize::from(self.bias)
    }

    /// Index of `a`; `up` follows.
    fn a_index(self) -> usize {
        1 + self.parts * self.each()
    }

    /// One part; `a` is the index of all parts' factors.
    fn shape(self, ins: &[Spec]) -> Shape {
        let a = self.a_index();
        let (k, n, rank) = (ins[0].last(), ins[1].dims[0], ins[a].dims[0] / self.parts.max(1));
        Shape { rows: linear::rows(&ins[0]), k, n, rank, a, residual: false }
    }

    /// Refuses the gradient of a weight or a bias.
    fn frozen(self, io: &Backward<'_>) -> Result<()> {
        match io.d_ins[1..self.a_index()].iter().any(|g| g.wanted()) {
            false => Ok(()),
            true => Err(Error::NoKernel {
                op: "lora_linear",
                key: "the gradient of a joined layer's weight".into(),
                tried: "gradients of the input and the adapters".into(),
            }),
        }
    }
}

impl Op for JoinedLora {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let (frozen, adapters) = ins.split_at(ins.len().min(self.a_index()));
        let mut out = alike(at, (self.parts, self.bias), frozen)?;
        let [a, up] = adapters else {
            let problem =
                format!("{} operands behind the layers, expected a and up", adapters.len());
            return Err(Error::Plan { at: at.into(), problem });
        };
        let dtype =
            check::float_inputs(at, &[ins[0].clone(), a.clone(), up.clone()], &["x", "a", "up"])?;
        let (n, k) = (out.last(), ins[0].last());
        if a.dims.len() != 2 || a.dims[1] != k || !a.dims[0].is_multiple_of(self.parts) {
            let want = format!("[{} rank, {k}] for x {:?}", self.parts, ins[0].dims);
            return Err(check::shape(at, "a", a, want));
        }
        let s = self.shape(ins);
        check::dims(at, "up", up, &[self.parts * n, s.rank], "for the weights and a")?;
        let h = ins[0].with(&[s.rows, self.parts * s.rank]);
        out.dims.insert(0, self.parts);
        let stored = check::stored_weight(ins);
        let [forward, backward] = cuda::scratch(self.parts, s, dtype);
        Ok(Signature {
            out,
            saved: vec![h],
            forward_scratch: super::cpu::forward_scratch(s, stored).max(forward),
            backward_scratch: super::cpu::backward_scratch(s, stored).max(backward),
        })
    }

    fn saves_in_own_order(&self) -> bool {
        true
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let a = self.a_index();
        let (dx, da, dup) = (wants[0], wants[a], wants[a + 1]);
        let weights = (1..a).step_by(self.each()).map(|w| (w, dx));
        let needed = [(0, da)].into_iter().chain(weights).chain([(a, dx), (a + 1, dx || da)]);
        let ins = needed.filter(|(_, needed)| *needed).map(|(i, _)| i).collect();
        Keeps { ins, out: false, saved: dup }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let s = self.shape(ins);
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum::<f64>();
        let (rows, parts) = (s.rows as f64, self.parts as f64);
        let one = (s.n * s.k + s.rank * (s.n + s.k)) as f64;
        let h = out.dtype.size_bytes() as f64 * rows * parts * s.rank as f64;
        Cost { flop: 2.0 * rows * parts * one, bytes: bytes + h }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let s = self.shape(ins);
        let (n, k, r) = (s.n as f64, s.k as f64, s.rank as f64);
        let (dx, da, dup) = (wants[0], wants[s.a], wants[s.a + 1]);
        let work = [(dx, k * n + r * k), (dx || da, n * r), (da, r * k), (dup, n * r)];
        let per_row: f64 = work.iter().filter(|(on, _)| *on).map(|(_, w)| w).sum();
        let flop = 2.0 * (s.rows * self.parts) as f64 * per_row;
        Cost { flop, bytes: self.cost(ins, out).bytes }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        cuda::describe(self.parts, self.shape(ins), out.dtype, cuda, backward)
    }

    fn detail(&self) -> String {
        format!("{} parts, scale {}", self.parts, self.scale)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        let (name, on_cpu) = (self.name(), |io| cpu::forward(*self, io));
        frame::forward(name, io, on_cpu, |cuda, io| {
            check::gpu_weight(name, io.specs)?;
            cuda::forward(*self, cuda, io)
        })
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        self.frozen(&io)?;
        let (name, on_cpu) = (self.name(), |io| cpu::backward(*self, io));
        frame::backward(name, io, on_cpu, |cuda, io| {
            check::gpu_weight(name, io.specs)?;
            cuda::backward(*self, cuda, io)
        })
    }
}
