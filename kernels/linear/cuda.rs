//! The products of one layer: forward, then the wanted gradients.

use super::{
    problem::{Operands, Pass, Problem},
    rows, sums,
};
use crate::{
    device::Cuda,
    error::Result,
    op::{Backward, Forward, GradMode},
    tensor::Spec,
};

/// `y = x w^T`, `dx = dy w` and `dw = dy^T x` of a layer.
pub(crate) fn problems(x: &Spec, out: &Spec) -> [Problem; 3] {
    let (rows, k, n) = (rows(x), x.last(), out.last());
    let of = |pass, m, n, k| Problem::dense(pass, x.dtype, [m, n, k], 0);
    [of(Pass::Forward, rows, n, k), of(Pass::Input, rows, k, n), of(Pass::Weight, n, k, rows)]
}

pub(super) fn forward_scratch(x: &Spec, out: &Spec) -> usize {
    problems(x, out)[0].scratch_bytes()
}

pub(super) fn backward_scratch(x: &Spec, out: &Spec, bias: bool) -> usize {
    let [_, input, weight] = problems(x, out);
    let sums = if bias { sums::column_scratch_bytes(rows(x), out.last()) } else { 0 };
    input.scratch_bytes().max(weight.scratch_bytes()).max(sums)
}

pub(super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let bias = io.ins.get(2).map_or(0, |b| b.address());
    let o = Operands::new(io.ins[0].address(), io.ins[1].address(), io.out.address());
    problems(&io.specs[0], io.out_spec)[0].run(cuda, &Operands { bias, ..o }, io.scratch.address())
}

pub(super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let [_, input, weight] = problems(&io.specs[0], io.out_spec);
    let (dy, scratch) = (io.d_out.address(), io.scratch.address());
    if let Some((dx, accumulate)) = target(io, 0) {
        let o = Operands::new(dy, io.ins[1].address(), dx);
        input.run(cuda, &Operands { accumulate, ..o }, scratch)?;
    }
    weight_and_bias(cuda, io, &weight)
}

/// `dw` and, of a layer with a bias, `db`, where wanted.
pub(crate) fn weight_and_bias(cuda: &Cuda, io: &Backward<'_>, weight: &Problem) -> Result<()> {
    let (dy, scratch) = (io.d_out.address(), io.scratch.address());
    if let Some((dw, accumulate)) = target(io, 1) {
        let o = Operands::new(dy, io.ins[0].address(), dw);
        weight.run(cuda, &Operands { accumulate, ..o }, scratch)?;
    }
    let has_bias = io.specs.len() % 2 == 1; // x, weight (, bias) (, a, up)
    if let Some(db) = target(io, 2).filter(|_| has_bias) {
        let x = (dy, rows(io.out_spec), io.out_spec.last());
        sums::column_sums(cuda, io.out_spec.dtype, x, db, scratch)?;
    }
    Ok(())
}

/// Address of a wanted gradient and whether to add to it.
pub(crate) fn target(io: &Backward<'_>, i: usize) -> Option<(u64, bool)> {
    let grad = io.d_ins.get(i).filter(|g| g.wanted())?;
    Some((grad.buf.address(), grad.mode == GradMode::Accumulate))
}
