//! The products of an adapted layer: the adapter is more steps of the base product's sum.
//!
//! The tensor cores' kernels read rows of 16 bytes: `up [N, r]` and `h [rows, r]` have them where the rank is a multiple of
//! 8, as every adapter of a model is (`nn` fills its rank up with zeros); others go to the generic kernels.

use super::Shape;
use crate::{
    device::{Cuda, cubin_table::Target},
    error::Result,
    kernels::{
        linear::{
            adapted::Leading,
            adapter,
            cuda::{target, weight_and_bias},
            problem::{OnChip, Operands, Parts, Pass, Problem},
            sums,
            tilings::Tiling,
        },
        variant::{Slot, Variant, choose},
    },
    op::{Backward, Forward},
    tensor::DType,
};

/// Rows of `--variant lora_linear.adapter=...`: `h` and `g` in the launch of the layer that reads them, or before it.
const VARIANTS: &[Variant<OnChip>] = &[
    Variant {
        name: "within",
        applies: |on| {
            let hopper = matches!(on.target, Target::Sm90a | Target::Host);
            let p = &on.problem;
            hopper && p.dtype != DType::F32 && p.rank > 0 && p.m > 0 && p.n > 0
        },
    },
    Variant { name: "before", applies: |_| true },
];
const SLOT: &str = "lora_linear.adapter";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, VARIANTS)]
}

/// Whether the adapter's product is to be made in the launch of `layer`, where its kernel can.
pub(super) fn is_within(cuda: &Cuda, layer: &Problem) -> Result<bool> {
    let on = OnChip { problem: *layer, target: cuda.target() };
    Ok(choose(cuda, SLOT, VARIANTS, &on)?.name == "within")
}

/// Every product of forward and backward.
struct Products {
    /// `h = scale x a^T`.
    down: Problem,
    /// `y = x w^T + h up^T`, and the residual.
    forward: Problem,
    /// `g = scale dy up`.
    up: Problem,
    /// `dx = dy w + g a`.
    input: Problem,
    /// `dw = dy^T x`.
    weight: Problem,
    /// `da = g^T x`.
    d_a: Parts,
    /// `dup = dy^T h`.
    d_up: Parts,
}

fn products(s: Shape, dtype: DType) -> Products {
    let of = |pass, mnk, rank| Problem::dense(pass, dtype, mnk, rank);
    let one = |mn: [usize; 2]| Parts { one: of(Pass::Weight, [mn[0], mn[1], s.rows], 0), count: 1 };
    Products {
        down: of(Pass::Forward, [s.rows, s.rank, s.k], 0),
        forward: of(Pass::Forward, [s.rows, s.n, s.k], s.rank).with_residual(s.residual),
        up: of(Pass::Input, [s.rows, s.rank, s.n], 0),
        input: of(Pass::Input, [s.rows, s.k, s.n], s.rank),
        weight: of(Pass::Weight, [s.n, s.k, s.rows], 0),
        d_a: one([s.rank, s.k]),
        d_up: one([s.n, s.rank]),
    }
}

/// Bytes of `g`, and the alignment of what follows.
fn g_bytes(s: Shape, dtype: DType) -> usize {
    let len = s.rows.saturating_mul(s.rank);
    len.saturating_mul(dtype.size_bytes()).next_multiple_of(256)
}

impl Products {
    /// `h` of forward, `g` of backward.
    fn narrow(&self) -> [Parts; 2] {
        [self.down, self.up].map(|one| Parts { one, count: 1 })
    }

    /// The kernel that makes `y` and `h`; `None` for one after the other.
    fn y_and_h(&self, cuda: &Cuda) -> Result<Option<&'static Tiling>> {
        match is_within(cuda, &self.forward)? {
            true => self.forward.maker(cuda, &self.narrow()[0]),
            false => Ok(None),
        }
    }

    /// The same of `dx` and `g`.
    fn dx_and_g(&self, cuda: &Cuda) -> Result<Option<&'static Tiling>> {
        match is_within(cuda, &self.forward)? {
            true => self.input.maker(cuda, &self.narrow()[1]),
            false => Ok(None),
        }
    }
}

pub(super) fn forward_scratch(s: Shape, dtype: DType) -> usize {
    let p = products(s, dtype);
    let adapted = p.forward.adapted_scratch(&p.narrow()[0]);
    p.down.scratch_bytes().max(p.forward.scratch_bytes()).max(adapted)
}

pub(super) fn backward_scratch(s: Shape, dtype: DType) -> usize {
    let p = products(s, dtype);
    let parts = [p.up, p.input, p.weight, p.d_a.one, p.d_up.one].map(|p| p.scratch_bytes());
    let adapted = p.input.adapted_scratch(&p.narrow()[1]);
    let sums = sums::column_scratch_bytes(s.rows, s.n).max(adapted);
    parts.into_iter().max().unwrap_or(0).max(sums).saturating_add(g_bytes(s, dtype))
}

/// The variants of forward or backward, for the printed plan.
pub(super) fn describe(s: Shape, dtype: DType, cuda: &Cuda, backward: bool) -> String {
    let p = products(s, dtype);
    let name = |p: &Problem| p.describe(cuda);
    if !backward {
        return match p.y_and_h(cuda) {
            Ok(Some(t)) => format!("y {}, h within", p.forward.describe_by(t)),
            _ => format!("y {}, h {}", name(&p.forward), name(&p.down)),
        };
    }
    let adapter = adapter::describe(cuda, [("da", &p.d_a), ("dup", &p.d_up)]);
    match p.dx_and_g(cuda) {
        Ok(Some(t)) => format!("dx {}, g within, {adapter}", p.input.describe_by(t)),
        _ => format!("dx {}, g {}, {adapter}", name(&p.input), name(&p.up)),
    }
}

/// The operands of one adapted layer on the device; those of backward with their gradients.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct At {
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub a: u64,
    pub up: u64,
    pub h: u64,
    /// Added to the output; 0 where nothing is.
    pub residual: u64,
    /// The output, or its gradient.
    pub y: u64,
    pub scratch: u64,
    /// Wanted gradients, and whether to add to them.
    pub dx: Option<(u64, bool)>,
    pub da: Option<(u64, bool)>,
    pub dup: Option<(u64, bool)>,
}

pub(super) fn forward(s: Shape, scale: f32, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let at = At {
        x: io.ins[0].address(),
        w: io.ins[1].address(),
        bias: if s.a == 3 { io.ins[2].address() } else { 0 },
        a: io.ins[s.a].address(),
        up: io.ins[s.a + 1].address(),
        h: io.saved[0].address(),
        residual: io.ins.last().filter(|_| s.residual).map_or(0, |r| r.address()),
        y: io.out.address(),
        scratch: io.scratch.address(),
        ..At::default()
    };
    layer(s, scale, cuda, io.out_spec.dtype, &at)
}

/// `h` and `y` of one layer.
pub(super) fn layer(s: Shape, scale: f32, cuda: &Cuda, dtype: DType, at: &At) -> Result<()> {
    let p = products(s, dtype);
    let down = Operands { alpha: scale, ..Operands::new(at.x, at.a, at.h) };
    let adapter = Operands { t: at.h, l: at.up, ..Operands::new(at.x, at.w, at.y) };
    let o = Operands { bias: at.bias, residual: at.residual, ..adapter };
    if let Some(t) = p.y_and_h(cuda)? {
        let lead = Leading { parts: p.narrow()[0], o: down };
        return p.forward.run_adapted(cuda, t, &o, &lead, at.scratch);
    }
    p.down.run(cuda, &down, at.scratch)?;
    p.forward.run(cuda, &o, at.scratch)
}

pub(super) fn backward(s: Shape, scale: f32, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let at = At {
        x: io.ins[0].address(),
        w: io.ins[1].address(),
        bias: 0,
        residual: 0,
        a: io.ins[s.a].address(),
        up: io.ins[s.a + 1].address(),
        h: io.saved.first().map_or(0, |h| h.address()),
        y: io.d_out.address(),
        scratch: io.scratch.address(),
        dx: target(io, 0),
        da: target(io, s.a),
        dup: target(io, s.a + 1),
    };
    let dtype = io.out_spec.dtype;
    gradients(s, scale, cuda, dtype, &at)?;
    weight_and_bias(cuda, io, &products(s, dtype).weight)
}

/// The wanted gradients of one layer's input and adapter.
pub(super) fn gradients(s: Shape, scale: f32, cuda: &Cuda, dtype: DType, at: &At) -> Result<()> {
    let p = products(s, dtype);
    let (dy, g) = (at.y, at.scratch);
    let parts = g + g_bytes(s, dtype) as u64;
    let up = Operands { alpha: scale, ..Operands::new(dy, at.up, g) };
    let within = if at.dx.is_some() { p.dx_and_g(cuda)? } else { None };
    if (at.dx.is_some() || at.da.is_some()) && within.is_none() {
        p.up.run(cuda, &up, parts)?;
    }
    if let Some((dx, accumulate)) = at.dx {
        let o = Operands { t: g, l: at.a, accumulate, ..Operands::new(dy, at.w, dx) };
        match within {
            Some(t) => {
                let lead = Leading { parts: p.narrow()[1], o: up };
                p.input.run_adapted(cuda, t, &o, &lead, parts)?;
            }
            None => p.input.run(cuda, &o, parts)?,
        }
    }
    let mut wanted = vec![];
    if let Some((da, accumulate)) = at.da {
        wanted.push((p.d_a, Operands { accumulate, ..Operands::new(g, at.x, da) }));
    }
    if let Some((dup, accumulate)) = at.dup {
        wanted.push((p.d_up, Operands { accumulate, ..Operands::new(dy, at.h, dup) }));
    }
    adapter::gradients(cuda, &wanted, parts)
}
