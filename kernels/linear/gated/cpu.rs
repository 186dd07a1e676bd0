//! CPU: the layers, and a pass over what lies between them.

use super::places::Places;
use crate::{
    device::cpu::{Elements, add_row_sums},
    kernels::{
        geglu::cpu::{apply, gradient},
        linear::{cpu, rows},
    },
    op::{Backward, Forward, Grad},
    tensor::{DType, Spec},
};

/// Bytes of a part of the scratch, what follows it aligned on every device.
pub(super) fn aligned(bytes: usize) -> usize {
    bytes.next_multiple_of(256)
}

/// `f32`s of such a part with `len` of them.
fn numbers(len: usize) -> usize {
    aligned(len.saturating_mul(4)) / 4
}

/// Scratch of the layer `[v, g] = x w^T + b`.
pub(super) fn layer_scratch(x: &Spec, sums: &Spec, stored: DType) -> usize {
    cpu::forward_scratch([rows(x), sums.last(), x.last()], stored)
}

pub(super) fn forward(mut io: Forward<'_>) {
    let (x, w) = (io.ins[0].f32(), Elements::of(io.ins[1], io.specs[1].dtype));
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.specs[1].dims[0]);
    let bias = io.ins.get(2).map(|b| b.f32());
    let sums = io.saved[0].f32();
    cpu::layer(sums, x, w, bias, [m, n, k], io.scratch.f32());
    apply(io.out.f32(), sums, n / 2);
}

pub(super) fn backward(mut io: Backward<'_>) {
    let (m, d) = (rows(&io.specs[0]), io.out_spec.last());
    let (d_sums, scratch) = io.scratch.f32().split_at_mut(numbers(2 * m * d));
    let d_sums = &mut d_sums[..2 * m * d];
    if io.d_ins.iter().any(Grad::wanted) {
        gradient(d_sums, (io.saved[0].f32(), io.d_out.f32()), d, false);
    }
    let [dx, others @ ..] = io.d_ins.as_mut_slice() else {
        unreachable!("linear: infer admits two inputs or three")
    };
    if dx.wanted() {
        let (k, beta) = (io.specs[0].last(), dx.beta());
        let w = Elements::of(io.ins[1], io.specs[1].dtype);
        cpu::input_gradient(dx.buf.f32(), d_sums, w, [m, 2 * d, k], beta, scratch);
    }
    let k = io.specs[0].last();
    parameters(others, (&*d_sums, 2 * d), (|| io.ins[0].f32(), k), scratch);
}

/// Gradients of a weight and of the bias behind it, from `dy` of `n` columns and the input of `k`.
fn parameters<'a>(
    grads: &mut [Grad<'_>],
    (dy, n): (&[f32], usize),
    (x, k): (impl FnOnce() -> &'a [f32], usize),
    scratch: &mut [f32],
) {
    let Some((dw, db)) = grads.split_first_mut() else { return };
    if dw.wanted() {
        let overwrite = dw.beta() == 0.0;
        cpu::weight_gradient(dw.buf.f32(), (dy, n), (x(), k), (1.0, overwrite), scratch);
    }
    if let Some(db) = db.first_mut().filter(|g| g.wanted()) {
        let beta = db.beta();
        add_row_sums(db.buf.f32(), dy, beta);
    }
}

pub(super) fn block(p: Places, mut io: Forward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let wide = io.specs[1].dims[0];
    let d = wide / 2;
    let weight = |i: usize| Elements::of(io.ins[i], io.specs[i].dtype);
    let bias = |i: Option<usize>| i.map(|i| io.ins[i].f32());
    let (h, scratch) = io.scratch.f32().split_at_mut(numbers(m * d));
    let (h, sums) = (&mut h[..m * d], io.saved[0].f32());
    cpu::layer(sums, io.ins[0].f32(), weight(1), bias(p.first_bias), [m, wide, k], scratch);
    apply(h, sums, d);
    let out = io.out.f32();
    cpu::layer(out, h, weight(p.weight), bias(p.second_bias), [m, n, d], scratch);
    if let Some(r) = p.residual {
        cpu::add_residual(out, io.ins[r].f32());
    }
}

pub(super) fn block_backward(p: Places, mut io: Backward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let wide = io.specs[1].dims[0];
    let d = wide / 2;
    let (dy, first) = (io.d_out.f32(), io.d_ins[..p.weight].iter().any(Grad::wanted));
    let (d_sums, rest) = io.scratch.f32().split_at_mut(numbers(m * wide));
    let d_sums = &mut d_sums[..m * wide];
    let (h, scratch) = rest.split_at_mut(numbers(m * d));
    let h = &mut h[..m * d];
    if first {
        let w = Elements::of(io.ins[p.weight], io.specs[p.weight].dtype);
        cpu::input_gradient(h, dy, w, [m, n, d], 0.0, scratch);
        gradient(d_sums, (io.saved[0].f32(), h), d, false);
    }
    let (own, second) = io.d_ins.split_at_mut(p.weight);
    if second[0].wanted() {
        apply(h, io.saved[0].f32(), d); // dh is no longer read
    }
    parameters(second, (dy, n), (|| &*h, d), scratch);
    let scratch = rest; // h is no longer read
    if own[0].wanted() {
        let (w, beta) = (Elements::of(io.ins[1], io.specs[1].dtype), own[0].beta());
        cpu::input_gradient(own[0].buf.f32(), d_sums, w, [m, wide, k], beta, scratch);
    }
    parameters(&mut own[1..], (&*d_sums, wide), (|| io.ins[0].f32(), k), scratch);
}
