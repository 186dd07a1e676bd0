//! CPU: three matrix products.

use super::rows;
use crate::{
    device::cpu::{Mat, MatMut, Threads, add_row_sums, fill_rows, matmul},
    op::{Backward, Forward},
};

pub(super) fn forward_scratch(_rows: usize, _n: usize, _k: usize) -> usize {
    0
}

pub(super) fn backward_scratch(_rows: usize, _n: usize, _k: usize) -> usize {
    0
}

pub(super) fn forward(mut io: Forward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let (x, w, out) = (io.ins[0].f32(), io.ins[1].f32(), io.out.f32());
    let beta = match io.ins.get(2) {
        Some(b) => {
            fill_rows(out, b.f32());
            1.0
        }
        None => 0.0,
    };
    let y = MatMut::new(out, m, n);
    matmul(y, Mat::new(x, m, k), Mat::new(w, n, k).t(), 1.0, beta, Threads::All);
}

pub(super) fn backward(mut io: Backward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let dy = Mat::new(io.d_out.f32(), m, n);
    if io.d_ins[0].wanted() {
        let beta = io.d_ins[0].beta();
        let dx = MatMut::new(io.d_ins[0].buf.f32(), m, k);
        matmul(dx, dy, Mat::new(io.ins[1].f32(), n, k), 1.0, beta, Threads::All);
    }
    if io.d_ins[1].wanted() {
        let beta = io.d_ins[1].beta();
        let dw = MatMut::new(io.d_ins[1].buf.f32(), n, k);
        matmul(dw, dy.t(), Mat::new(io.ins[0].f32(), m, k), 1.0, beta, Threads::All);
    }
    if let Some(db) = io.d_ins.get_mut(2).filter(|g| g.wanted()) {
        let beta = db.beta();
        add_row_sums(db.buf.f32(), dy.data, beta);
    }
}
