//! The products of an adapted layer: the adapter is more steps of the base product's sum.

use super::Shape;
use crate::{
    device::Cuda,
    error::Result,
    kernels::linear::{
        cuda::{target, weight_and_bias},
        product::{Operands, Pass, Problem},
        sums,
    },
    op::{Backward, Forward},
    tensor::DType,
};

/// Every product of forward and backward.
struct Products {
    /// `h = scale x a^T`.
    down: Problem,
    /// `y = x w^T + h up^T`.
    forward: Problem,
    /// `g = scale dy up`.
    up: Problem,
    /// `dx = dy w + g a`.
    input: Problem,
    /// `dw = dy^T x`.
    weight: Problem,
    /// `da = g^T x`.
    d_a: Problem,
    /// `dup = dy^T h`.
    d_up: Problem,
}

impl Products {
    fn new(s: Shape, dtype: DType) -> Self {
        let of = |pass, m, n, k, rank| Problem { pass, dtype, m, n, k, rank };
        Self {
            down: of(Pass::Forward, s.rows, s.rank, s.k, 0),
            forward: of(Pass::Forward, s.rows, s.n, s.k, s.rank),
            up: of(Pass::Input, s.rows, s.rank, s.n, 0),
            input: of(Pass::Input, s.rows, s.k, s.n, s.rank),
            weight: of(Pass::Weight, s.n, s.k, s.rows, 0),
            d_a: of(Pass::Weight, s.rank, s.k, s.rows, 0),
            d_up: of(Pass::Weight, s.n, s.rank, s.rows, 0),
        }
    }
}

/// Bytes of `g`; the partial sums lie behind it.
fn g_bytes(s: Shape, dtype: DType) -> usize {
    s.rows.saturating_mul(s.rank).saturating_mul(dtype.size_bytes()).next_multiple_of(256)
}

pub(super) fn forward_scratch(s: Shape, dtype: DType) -> usize {
    let p = Products::new(s, dtype);
    p.down.scratch_bytes().max(p.forward.scratch_bytes())
}

pub(super) fn backward_scratch(s: Shape, dtype: DType) -> usize {
    let p = Products::new(s, dtype);
    let parts = [&p.up, &p.input, &p.weight, &p.d_a, &p.d_up].map(Problem::scratch_bytes);
    let sums = sums::column_scratch_bytes(s.rows, s.n);
    let most = parts.into_iter().max().unwrap_or(0).max(sums);
    most.saturating_add(g_bytes(s, dtype))
}

/// The variants of forward or backward, for the printed plan.
pub(super) fn describe(s: Shape, dtype: DType, cuda: &Cuda, backward: bool) -> String {
    let p = Products::new(s, dtype);
    let names = if backward {
        [("dx", &p.input), ("da", &p.d_a), ("dup", &p.d_up)].to_vec()
    } else {
        [("y", &p.forward), ("h", &p.down)].to_vec()
    };
    let one = |(what, p): (&str, &Problem)| format!("{what} {}", p.describe(cuda));
    names.into_iter().map(one).collect::<Vec<_>>().join(", ")
}

pub(super) fn forward(s: Shape, scale: f32, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let p = Products::new(s, io.out_spec.dtype);
    let (x, scratch) = (io.ins[0].address(), io.scratch.address());
    let h = io.saved[0].address();
    let down = Operands::new(x, io.ins[s.a].address(), h);
    p.down.run(cuda, &Operands { alpha: scale, ..down }, scratch)?;
    let bias = if s.a == 3 { io.ins[2].address() } else { 0 };
    let base = Operands::new(x, io.ins[1].address(), io.out.address());
    let l = io.ins[s.a + 1].address();
    p.forward.run(cuda, &Operands { t: h, l, bias, ..base }, scratch)
}

pub(super) fn backward(s: Shape, scale: f32, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let dtype = io.out_spec.dtype;
    let p = Products::new(s, dtype);
    let (dy, g) = (io.d_out.address(), io.scratch.address());
    let parts = g + g_bytes(s, dtype) as u64;
    let (dx, da, dup) = (target(io, 0), target(io, s.a), target(io, s.a + 1));
    if dx.is_some() || da.is_some() {
        let o = Operands::new(dy, io.ins[s.a + 1].address(), g);
        p.up.run(cuda, &Operands { alpha: scale, ..o }, parts)?;
    }
    if let Some((dx, accumulate)) = dx {
        let o = Operands::new(dy, io.ins[1].address(), dx);
        let l = io.ins[s.a].address();
        p.input.run(cuda, &Operands { t: g, l, accumulate, ..o }, parts)?;
    }
    if let Some((da, accumulate)) = da {
        let o = Operands::new(g, io.ins[0].address(), da);
        p.d_a.run(cuda, &Operands { accumulate, ..o }, parts)?;
    }
    if let Some((dup, accumulate)) = dup {
        let o = Operands::new(dy, io.saved[0].address(), dup);
        p.d_up.run(cuda, &Operands { accumulate, ..o }, parts)?;
    }
    weight_and_bias(cuda, io, &p.weight)
}
