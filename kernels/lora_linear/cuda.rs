//! The products of an adapted layer: the adapter is more steps of the base product's sum.
//!
//! The tensor cores' kernels read rows of 16 bytes, so 16-bit factors whose rank is no multiple of 8 are first
//! copied into rows that are, zero-filled: `h [rows, r]`, `up [N, r]`, `a [r, K]`.

use super::Shape;
use crate::{
    device::{Cuda, Touched},
    error::{Error, Result},
    kernels::{
        linear::{
            adapter,
            cuda::{target, weight_and_bias},
            problem::{Operands, Parts, Pass, Problem},
            sums,
        },
        variant::by_dtype,
    },
    op::{Backward, Forward},
    tensor::DType,
};

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

/// An adapted layer on a GPU.
#[derive(Clone, Copy)]
struct Layer {
    s: Shape,
    dtype: DType,
    /// The rank of the copies, or of the factors themselves.
    rank: usize,
}

impl Layer {
    fn new(s: Shape, dtype: DType) -> Self {
        let aligned = s.k.is_multiple_of(8) && s.n.is_multiple_of(8);
        let copies = dtype != DType::F32 && aligned && s.rows > 0;
        Self { s, dtype, rank: if copies { s.rank.next_multiple_of(8) } else { s.rank } }
    }

    fn copies(&self) -> bool {
        self.rank != self.s.rank
    }

    fn products(&self) -> Products {
        let (s, r) = (self.s, self.rank);
        let of = |pass, mnk, rank| Problem::dense(pass, self.dtype, mnk, rank);
        let one = |one| Parts { one, count: 1 };
        Products {
            down: of(Pass::Forward, [s.rows, s.rank, s.k], 0),
            forward: of(Pass::Forward, [s.rows, s.n, s.k], r).with_residual(s.residual),
            up: of(Pass::Input, [s.rows, r, s.n], 0),
            input: of(Pass::Input, [s.rows, s.k, s.n], r),
            weight: of(Pass::Weight, [s.n, s.k, s.rows], 0),
            d_a: one(Problem { left_pitch: r, ..of(Pass::Weight, [s.rank, s.k, s.rows], 0) }),
            d_up: one(Problem { right_pitch: r, ..of(Pass::Weight, [s.n, s.rank, s.rows], 0) }),
        }
    }

    /// Bytes of `len` elements, and the alignment of what follows.
    fn bytes(&self, len: usize) -> usize {
        len.saturating_mul(self.dtype.size_bytes()).next_multiple_of(256)
    }

    /// Bytes of the copies of `h`, `up` and `a`; 0 where there are none.
    fn copy_bytes(&self) -> [usize; 3] {
        if !self.copies() {
            return [0; 3];
        }
        [self.s.rows, self.s.n, self.s.k].map(|n| self.bytes(n.saturating_mul(self.rank)))
    }

    /// Bytes of `g`.
    fn g_bytes(&self) -> usize {
        self.bytes(self.s.rows.saturating_mul(self.rank))
    }

    /// `x [rows, from]` in rows of `to`, or `x` itself where they are equal.
    fn padded(&self, cuda: &Cuda, x: u64, [rows, from, to]: [usize; 3], copy: u64) -> Result<u64> {
        if from == to {
            return Ok(x);
        }
        let symbol = by_dtype(self.dtype, ["lora_pad_f32", "lora_pad_bf16", "lora_pad_f16"]);
        let kernel = cuda.kernel::<PadArgs>("lora_linear", symbol)?;
        let (len, size) = (rows * to, self.dtype.size_bytes());
        let args = PadArgs { x, out: copy, len: len as u64, from: int(from)?, to: int(to)? };
        let touches = [
            Touched { what: "factor", address: x, bytes: rows * from * size },
            Touched { what: "padded factor", address: copy, bytes: len * size },
        ];
        let blocks = (len as u64).div_ceil(u64::from(kernel.tile().block_cols));
        cuda.launch(&kernel, [blocks, 1, 1], &args, &touches)?;
        Ok(copy)
    }
}

/// The argument struct of `lora_pad.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct PadArgs {
    x: u64,
    out: u64,
    len: u64,
    from: i32,
    to: i32,
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "lora_linear",
        key: format!("{n} elements of a factor"),
        tried: "up to 2^31".into(),
    })
}

pub(super) fn forward_scratch(s: Shape, dtype: DType) -> usize {
    let layer = Layer::new(s, dtype);
    let p = layer.products();
    let copies: usize = layer.copy_bytes()[..2].iter().sum();
    copies.saturating_add(p.down.scratch_bytes().max(p.forward.scratch_bytes()))
}

pub(super) fn backward_scratch(s: Shape, dtype: DType) -> usize {
    let layer = Layer::new(s, dtype);
    let p = layer.products();
    let parts = [p.up, p.input, p.weight, p.d_a.one, p.d_up.one].map(|p| p.scratch_bytes());
    let sums = sums::column_scratch_bytes(s.rows, s.n);
    let most = parts.into_iter().max().unwrap_or(0).max(sums);
    let copies: usize = layer.copy_bytes().iter().sum();
    most.saturating_add(layer.g_bytes()).saturating_add(copies)
}

/// The variants of forward or backward, for the printed plan.
pub(super) fn describe(s: Shape, dtype: DType, cuda: &Cuda, backward: bool) -> String {
    let p = Layer::new(s, dtype).products();
    let name = |p: &Problem| p.describe(cuda);
    if !backward {
        return format!("y {}, h {}", name(&p.forward), name(&p.down));
    }
    let adapter = adapter::describe(cuda, [("da", &p.d_a), ("dup", &p.d_up)]);
    format!("dx {}, g {}, {adapter}", name(&p.input), name(&p.up))
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
    let layer = Layer::new(s, dtype);
    let p = layer.products();
    let [h_bytes, up_bytes, _] = layer.copy_bytes();
    let h_copy = at.scratch;
    let up_copy = h_copy + h_bytes as u64;
    let parts = up_copy + up_bytes as u64;
    p.down.run(cuda, &Operands { alpha: scale, ..Operands::new(at.x, at.a, at.h) }, parts)?;
    let t = layer.padded(cuda, at.h, [s.rows, s.rank, layer.rank], h_copy)?;
    let l = layer.padded(cuda, at.up, [s.n, s.rank, layer.rank], up_copy)?;
    let base = Operands::new(at.x, at.w, at.y);
    p.forward.run(cuda, &Operands { t, l, bias: at.bias, residual: at.residual, ..base }, parts)
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
    weight_and_bias(cuda, io, &Layer::new(s, dtype).products().weight)
}

/// The wanted gradients of one layer's input and adapter.
pub(super) fn gradients(s: Shape, scale: f32, cuda: &Cuda, dtype: DType, at: &At) -> Result<()> {
    let layer = Layer::new(s, dtype);
    let p = layer.products();
    let [h_bytes, up_bytes, a_bytes] = layer.copy_bytes();
    let (dy, g) = (at.y, at.scratch);
    let h_copy = g + layer.g_bytes() as u64;
    let up_copy = h_copy + h_bytes as u64;
    let a_copy = up_copy + up_bytes as u64;
    let parts = a_copy + a_bytes as u64;
    if at.dx.is_some() || at.da.is_some() {
        let up = layer.padded(cuda, at.up, [s.n, s.rank, layer.rank], up_copy)?;
        p.up.run(cuda, &Operands { alpha: scale, ..Operands::new(dy, up, g) }, parts)?;
    }
    if let Some((dx, accumulate)) = at.dx {
        // (r, K) in zero-filled rows is one row of r K elements made longer
        let len = [1, s.rank * s.k, layer.rank * s.k];
        let l = layer.padded(cuda, at.a, len, a_copy)?;
        let o = Operands::new(dy, at.w, dx);
        p.input.run(cuda, &Operands { t: g, l, accumulate, ..o }, parts)?;
    }
    let mut wanted = vec![];
    if let Some((da, accumulate)) = at.da {
        wanted.push((p.d_a, Operands { accumulate, ..Operands::new(g, at.x, da) }));
    }
    if let Some((dup, accumulate)) = at.dup {
        let h = layer.padded(cuda, at.h, [s.rows, s.rank, layer.rank], h_copy)?;
        wanted.push((p.d_up, Operands { accumulate, ..Operands::new(dy, h, dup) }));
    }
    adapter::gradients(cuda, &wanted, parts)
}
