//! A linear layer with a low-rank adapter.

pub mod cases;
mod cpu;
mod cuda;
pub mod joined;

use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::{
        add::{self, Add},
        check,
        linear::{self, joined::MOST},
    },
    op::{Backward, Cost, Forward, Keeps, Later, Op, Signature},
    tensor::Spec,
};
use std::any::Any;

/// A linear layer plus a low-rank adapter, in rank-first order: `w + scale up a` is never formed.
///
/// `y = x w^T + b + h up^T + s` with `h = scale x a^T`
///
/// # Shapes
/// `x: [.., K]`, `w: [N, K]`, `b: [N]` (only with `bias`), `a: [r, K]`, `up: [N, r]`, `s` as `y` (only with `residual`) gives
/// `y: [.., N]`; saves `h: [.., r]`; all of one float type. On the CPU a frozen `w` may be bf16 or f16 beside f32.
///
/// # Gradient
/// With `g = scale dy up`: `dx = dy w + g a`, `da = g^T x`, `dup = dy^T h`, `dw = dy^T x`,
/// `db = sum_i dy[i]`, `ds = dy`. A frozen `w` (the usual case) costs nothing in backward beyond `dx`, a residual nothing
/// where the plan lets its gradient share the buffer of `dy`.
///
/// # Numerics
/// f32 accumulation, the residual added last; `h`, `g` and the results are rounded once each. Bitwise repeatable (on the CPU
/// for a given number of threads). On the CPU with a `w` in bf16 all operands of all products, the adapter's and their
/// gradients' too, are rounded to bf16 where the processor multiplies such numbers; elsewhere, and in f16, `w` is widened
/// to f32.
///
/// # Errors
/// `infer` refuses factors that do not fit the weight or each other, and a residual of another shape than the output's.
///
/// # Source
/// Hu et al., LoRA, 2021, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraLinear {
    /// Whether the third input is a bias.
    pub bias: bool,
    /// Whether the last input is added.
    pub residual: bool,
    /// Factor of the adapter, alpha / r.
    pub scale: f32,
}

/// Indices of the inputs and the extents of one call.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    k: usize,
    n: usize,
    rank: usize,
    /// Index of `a`; `up` follows.
    a: usize,
    /// Whether an input behind `up` is added.
    residual: bool,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    [cuda::slots(), joined::slots()].concat()
}

impl LoraLinear {
    fn names(self) -> &'static [&'static str] {
        match (self.bias, self.residual) {
            (true, true) => &["x", "weight", "bias", "a", "up", "residual"],
            (true, false) => &["x", "weight", "bias", "a", "up"],
            (false, true) => &["x", "weight", "a", "up", "residual"],
            (false, false) => &["x", "weight", "a", "up"],
        }
    }

    fn a_index(self) -> usize {
        2 + usize::from(self.bias)
    }

    fn shape(self, ins: &[Spec]) -> Shape {
        let a = self.a_index();
        let (k, n, rank) = (ins[0].last(), ins[1].dims[0], ins[a].dims[0]);
        Shape { rows: linear::rows(&ins[0]), k, n, rank, a, residual: self.residual }
    }
}

impl Op for LoraLinear {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn followed_by(&self, next: &dyn Op, _: usize, _: Later) -> Option<Box<dyn Op>> {
        let next: &dyn Any = next;
        let sum = next.is::<Add>() && !self.residual;
        sum.then(|| Box::new(Self { residual: true, ..*self }) as Box<dyn Op>)
    }

    fn beside(&self, count: usize, trained: &[bool], _: bool) -> Option<Box<dyn Op>> {
        let (frozen, adapter) = trained.split_at_checked(trained.len().checked_sub(2)?)?;
        let (bias, scale) = (self.bias, self.scale);
        let plain = !self.residual && !frozen.contains(&true);
        let fits = (2..=MOST).contains(&count) && adapter == [true; 2] && plain;
        fits.then(|| Box::new(joined::JoinedLora { bias, parts: count, scale }) as Box<dyn Op>)
    }

    fn passes(&self) -> &'static [usize] {
        match (self.residual, self.bias) {
            (false, _) => &[],
            (true, false) => &[4],
            (true, true) => &[5],
        }
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = "lora_linear";
        let dtype = check::product_inputs(at, ins, self.names())?;
        let bias = if self.bias { ins.get(2) } else { None };
        let out = linear::output(at, &ins[0], &ins[1], bias)?;
        let (a, up) = (&ins[self.a_index()], &ins[self.a_index() + 1]);
        let (n, k) = (out.last(), ins[0].last());
        if a.dims.len() != 2 || a.dims[1] != k {
            let want = format!("[rank, {k}] for x {:?}; check the adapter's target", ins[0].dims);
            return Err(check::shape(at, "a", a, want));
        }
        let rank = a.dims[0];
        check::dims(at, "up", up, &[n, rank], "for the weight and a; check the adapter's rank")?;
        if self.residual {
            check::dims(at, "residual", &ins[self.a_index() + 2], &out.dims, "as the output")?;
        }
        let mut h = ins[0].clone();
        if let Some(last) = h.dims.last_mut() {
            *last = rank;
        }
        let (shape, stored) = (self.shape(ins), check::stored_weight(ins));
        Ok(Signature {
            out,
            saved: vec![h],
            forward_scratch: cpu::forward_scratch(shape, stored)
                .max(cuda::forward_scratch(shape, dtype)),
            backward_scratch: cpu::backward_scratch(shape, stored)
                .max(cuda::backward_scratch(shape, dtype)),
        })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let a = self.a_index();
        let (dx, dw, da, dup) = (wants[0], wants[1], wants[a], wants[a + 1]);
        let needed = [(0, dw || da), (1, dx), (a, dx), (a + 1, dx || da)];
        let ins = needed.iter().filter(|(_, needed)| *needed).map(|(i, _)| *i).collect();
        Keeps { ins, out: false, saved: dup }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let s = self.shape(ins);
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum::<f64>();
        let base = s.n as f64 * s.k as f64;
        let adapter = s.rank as f64 * (s.n + s.k) as f64;
        let h = out.dtype.size_bytes() as f64 * s.rows as f64 * s.rank as f64;
        Cost { flop: 2.0 * s.rows as f64 * (base + adapter), bytes: bytes + h }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let s = self.shape(ins);
        let (n, k, r) = (s.n as f64, s.k as f64, s.rank as f64);
        let (dx, dw, da, dup) = (wants[0], wants[1], wants[s.a], wants[s.a + 1]);
        let work = [(dx, k * n + r * k), (dw, k * n), (dx || da, n * r), (da, r * k), (dup, n * r)];
        let per_row: f64 = work.iter().filter(|(on, _)| *on).map(|(_, w)| w).sum();
        let passes = f64::from(u8::from(dx) + u8::from(dw)).max(1.0);
        // a residual that is wanted is a copy of dy
        let copied = if wants.get(s.a + 2) == Some(&true) { 2.0 } else { 0.0 };
        let residual = if self.residual { 1.0 } else { 0.0 };
        let layer = self.cost(ins, out).bytes - residual * out.bytes() as f64;
        let bytes = layer * passes + copied * out.bytes() as f64;
        Cost { flop: 2.0 * s.rows as f64 * per_row, bytes }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        cuda::describe(self.shape(ins), out.dtype, cuda, backward)
    }

    fn detail(&self) -> String {
        format!("scale {}{}", self.scale, if self.residual { ", residual" } else { "" })
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(self.shape(io.specs), self.scale, io),
            Device::Cuda(cuda) => {
                check::gpu_weight(self.name(), io.specs)?;
                return cuda::forward(self.shape(io.specs), self.scale, &cuda.clone(), &io);
            }
        }
        Ok(())
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        check::frozen_half(self.name(), io.specs, io.d_ins[1].wanted())?;
        if self.residual {
            add::residual_gradient(&mut io)?;
        }
        match io.device {
            Device::Cpu => cpu::backward(self.shape(io.specs), self.scale, io),
            Device::Cuda(cuda) => {
                check::gpu_weight(self.name(), io.specs)?;
                return cuda::backward(self.shape(io.specs), self.scale, &cuda.clone(), &io);
            }
        }
        Ok(())
    }
}
