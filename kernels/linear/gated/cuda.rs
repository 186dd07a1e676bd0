//! GPU: what is launched for a layer with its GEGLU and for a whole block.

use super::{cpu::aligned, launch::Gated, places::Places};
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        elementwise::OVERWRITE,
        geglu,
        linear::{
            cuda::target,
            problem::{Operands, Pass, Problem},
            rows, sums,
        },
    },
    op::{Backward, Forward, Grad},
    tensor::{DType, Spec},
};

/// The layer that makes `sums` of `x`.
fn layer(x: &Spec, sums: &Spec, at: u64) -> Gated {
    let extents = [rows(x), sums.last(), x.last()];
    Gated { problem: Problem::dense(Pass::Forward, x.dtype, extents, 0), sums: at }
}

/// `dh = dy w` for the layer that made `out` of the values of `sums`.
fn input(sums: &Spec, out: &Spec, at: u64) -> Gated {
    let extents = [rows(out), sums.last() / 2, out.last()];
    Gated { problem: Problem::dense(Pass::Input, out.dtype, extents, 0), sums: at }
}

pub(super) fn describe_layer(cuda: &Cuda, x: &Spec, sums: &Spec) -> String {
    layer(x, sums, 0).describe(cuda)
}

pub(super) fn describe_input(cuda: &Cuda, sums: &Spec, out: &Spec) -> String {
    input(sums, out, 0).describe(cuda)
}

/// The products of a layer's gradients: `dx [m, k] = dy w` and `dw [n, k] = dy^T x`.
fn gradients(dtype: DType, [m, n, k]: [usize; 3]) -> [Problem; 2] {
    let of = |pass, extents| Problem::dense(pass, dtype, extents, 0);
    [of(Pass::Input, [m, k, n]), of(Pass::Weight, [n, k, m])]
}

/// Scratch of those and of the bias's.
fn gradient_scratch(dtype: DType, extents: [usize; 3]) -> usize {
    let [input, weight] = gradients(dtype, extents);
    let bias = sums::column_scratch_bytes(extents[0], extents[1]);
    input.scratch_bytes().max(weight.scratch_bytes()).max(bias)
}

/// Scratch of forward and, behind the gradient of `sums`, of backward.
pub(super) fn layer_scratch(x: &Spec, sums: &Spec) -> [usize; 2] {
    let backward = gradient_scratch(x.dtype, [rows(x), sums.last(), x.last()]);
    [layer(x, sums, 0).scratch_bytes(), backward]
}

/// Scratch of a block: of forward behind `h`; behind the gradient of `sums` that of the second layer's gradients behind `h`, of `dh`
/// with `h`, of the first layer's gradients.
pub(super) fn block_scratch(x: &Spec, sums: &Spec, out: &Spec) -> [usize; 4] {
    let (m, d) = (rows(x), sums.last() / 2);
    let second = Problem::dense(Pass::Forward, x.dtype, [m, out.last(), d], 0);
    let [forward, first] = layer_scratch(x, sums);
    let behind = gradient_scratch(x.dtype, [m, out.last(), d]);
    [forward.max(second.scratch_bytes()), behind, input(sums, out, 0).scratch_bytes(), first]
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, sums) = (&io.specs[0], &wide(io.out_spec));
    let bias = io.ins.get(2).map_or(0, |b| b.address());
    let o = Operands::new(io.ins[0].address(), io.ins[1].address(), io.out.address());
    layer(x, sums, io.saved[0].address()).run(cuda, &Operands { bias, ..o }, io.scratch.address())
}

/// `[v, g]` for the values `v`.
fn wide(values: &Spec) -> Spec {
    values.with(&[rows(values), 2 * values.last()])
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let sums = wide(io.out_spec);
    let (d_sums, scratch) = parts(io, sums.bytes());
    if io.d_ins.iter().any(Grad::wanted) {
        let at = [io.saved[0].address(), io.d_out.address(), d_sums];
        geglu::cuda::gradient(cuda, io.out_spec, at, OVERWRITE)?;
    }
    first_gradients(cuda, io, (&sums, (io.specs.len() > 2).then_some(2)), d_sums, scratch)
}

/// Where the first part of the scratch, of `bytes`, lies, and what is behind it.
fn parts(io: &Backward<'_>, bytes: usize) -> (u64, u64) {
    let first = io.scratch.address();
    (first, first + aligned(bytes) as u64)
}

/// Gradients of `x`, of the first weight and, where there is one, of its bias.
fn first_gradients(
    cuda: &Cuda,
    io: &Backward<'_>,
    (sums, bias): (&Spec, Option<usize>),
    d_sums: u64,
    scratch: u64,
) -> Result<()> {
    let x = &io.specs[0];
    let extents = [rows(x), sums.last(), x.last()];
    if let Some((dx, accumulate)) = target(io, 0) {
        let o = Operands::new(d_sums, io.ins[1].address(), dx);
        gradients(x.dtype, extents)[0].run(cuda, &Operands { accumulate, ..o }, scratch)?;
    }
    let own = Parameters { weight: 1, bias, input: io.ins[0].address() };
    own.gradients(cuda, io, (d_sums, extents), scratch)
}

/// A weight and its bias among the inputs, and the address of what the layer gets.
struct Parameters {
    weight: usize,
    bias: Option<usize>,
    input: u64,
}

impl Parameters {
    fn gradients(
        &self,
        cuda: &Cuda,
        io: &Backward<'_>,
        (dy, extents): (u64, [usize; 3]),
        scratch: u64,
    ) -> Result<()> {
        let dtype = io.out_spec.dtype;
        if let Some((dw, accumulate)) = target(io, self.weight) {
            let o = Operands::new(dy, self.input, dw);
            gradients(dtype, extents)[1].run(cuda, &Operands { accumulate, ..o }, scratch)?;
        }
        if let Some(db) = self.bias.and_then(|i| target(io, i)) {
            sums::column_sums(cuda, dtype, (dy, extents[0], extents[1]), db, scratch)?;
        }
        Ok(())
    }
}

pub(super) fn block(p: Places, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (x, sums, out) = (&io.specs[0], p.sums(io.specs)?, io.out_spec);
    let (m, d) = (rows(x), sums.last() / 2);
    let of = |i: Option<usize>| i.map_or(0, |i| io.ins[i].address());
    let h = io.scratch.address();
    let behind = h + aligned(m * d * x.dtype.size_bytes()) as u64;
    let first = Operands::new(io.ins[0].address(), io.ins[1].address(), h);
    let first = Operands { bias: of(p.first_bias), ..first };
    layer(x, &sums, io.saved[0].address()).run(cuda, &first, behind)?;
    let second = Operands::new(h, io.ins[p.weight].address(), io.out.address());
    let second = Operands { bias: of(p.second_bias), residual: of(p.residual), ..second };
    let product = Problem::dense(Pass::Forward, x.dtype, [m, out.last(), d], 0);
    product.with_residual(p.residual.is_some()).run(cuda, &second, behind)
}

pub(super) fn block_backward(p: Places, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (x, sums, out) = (&io.specs[0], p.sums(io.specs)?, io.out_spec);
    let (m, d) = (rows(x), sums.last() / 2);
    let (d_sums, h) = parts(io, sums.bytes());
    let scratch = h + aligned(m * d * x.dtype.size_bytes()) as u64;
    if io.d_ins[..p.weight].iter().any(Grad::wanted) {
        let o = Operands::new(io.d_out.address(), io.ins[p.weight].address(), d_sums);
        input(&sums, out, io.saved[0].address()).run(cuda, &o, h)?;
    }
    if io.d_ins[p.weight].wanted() {
        let values = out.with(&[m, d]);
        geglu::cuda::apply(cuda, &values, io.saved[0].address(), h)?;
    }
    let second = Parameters { weight: p.weight, bias: p.second_bias, input: h };
    second.gradients(cuda, io, (io.d_out.address(), [m, out.last(), d]), scratch)?;
    first_gradients(cuda, io, (&sums, p.first_bias), d_sums, h)
}
