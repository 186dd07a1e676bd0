//! CPU: the adapter's products are thin and run on the rows that the base product just touched.

use super::Shape;
use crate::{
    device::cpu::{Mat, MatMut, Threads, add_row_sums, fill_rows, matmul},
    op::{Backward, Forward},
};

pub(super) fn forward_scratch(_s: Shape) -> usize {
    0
}

/// `g = scale dy up`, `[rows, r]`.
pub(super) fn backward_scratch(s: Shape) -> usize {
    s.rows.saturating_mul(s.rank).saturating_mul(4)
}

pub(super) fn forward(s: Shape, scale: f32, mut io: Forward<'_>) {
    let (x, w) = (io.ins[0].f32(), io.ins[1].f32());
    let (a, up) = (io.ins[s.a].f32(), io.ins[s.a + 1].f32());
    let x = Mat::new(x, s.rows, s.k);
    let h = io.saved[0].f32();
    matmul(MatMut::new(h, s.rows, s.rank), x, Mat::new(a, s.rank, s.k).t(), 1.0, 0.0, Threads::All);
    let out = io.out.f32();
    let mut beta = 0.0;
    if s.a == 3 {
        fill_rows(out, io.ins[2].f32());
        beta = 1.0;
    }
    let w = Mat::new(w, s.n, s.k).t();
    matmul(MatMut::new(out, s.rows, s.n), x, w, 1.0, beta, Threads::All);
    let (h, up) = (Mat::new(h, s.rows, s.rank), Mat::new(up, s.n, s.rank).t());
    matmul(MatMut::new(out, s.rows, s.n), h, up, scale, 1.0, Threads::All);
}

pub(super) fn backward(s: Shape, scale: f32, mut io: Backward<'_>) {
    let dy = Mat::new(io.d_out.f32(), s.rows, s.n);
    let (dx, da) = (io.d_ins[0].wanted(), io.d_ins[s.a].wanted());
    let g = &mut io.scratch.f32()[..s.rows * s.rank];
    if dx || da {
        let up = Mat::new(io.ins[s.a + 1].f32(), s.n, s.rank);
        matmul(MatMut::new(g, s.rows, s.rank), dy, up, scale, 0.0, Threads::All);
    }
    let g = Mat::new(g, s.rows, s.rank);
    if dx {
        let beta = io.d_ins[0].beta();
        let dx = io.d_ins[0].buf.f32();
        let w = Mat::new(io.ins[1].f32(), s.n, s.k);
        matmul(MatMut::new(dx, s.rows, s.k), dy, w, 1.0, beta, Threads::All);
        let a = Mat::new(io.ins[s.a].f32(), s.rank, s.k);
        matmul(MatMut::new(dx, s.rows, s.k), g, a, 1.0, 1.0, Threads::All);
    }
    if da {
        let beta = io.d_ins[s.a].beta();
        let d = MatMut::new(io.d_ins[s.a].buf.f32(), s.rank, s.k);
        matmul(d, g.t(), Mat::new(io.ins[0].f32(), s.rows, s.k), 1.0, beta, Threads::All);
    }
    if io.d_ins[s.a + 1].wanted() {
        let beta = io.d_ins[s.a + 1].beta();
        let d = MatMut::new(io.d_ins[s.a + 1].buf.f32(), s.n, s.rank);
        let h = Mat::new(io.saved[0].f32(), s.rows, s.rank);
        matmul(d, dy.t(), h, scale, beta, Threads::All);
    }
    if io.d_ins[1].wanted() {
        let beta = io.d_ins[1].beta();
        let d = MatMut::new(io.d_ins[1].buf.f32(), s.n, s.k);
        matmul(d, dy.t(), Mat::new(io.ins[0].f32(), s.rows, s.k), 1.0, beta, Threads::All);
    }
    if s.a == 3 && io.d_ins[2].wanted() {
        let beta = io.d_ins[2].beta();
        add_row_sums(io.d_ins[2].buf.f32(), dy.data, beta);
    }
}
