//! CPU: the adapter's thin products run on the rows that the base product just touched.

use super::Shape;
use crate::{
    device::cpu::{
        Initial, OUTER_SCRATCH_LEN, Out, Right, Rows, add_row_sums, pack, packed_len, pieces,
        pool_size, product, share,
    },
    kernels::linear::cpu::{TOKEN, block, consecutive, plain, transposed, weight_gradient},
    op::{Backward, Forward, Grad},
};

impl Shape {
    fn flop(&self) -> f64 {
        2.0 * self.rows as f64 * (self.n * self.k + self.rank * (self.n + self.k)) as f64
    }
}

pub(super) fn forward_scratch(s: Shape) -> usize {
    let packed = [packed_len(s.k, s.n), packed_len(s.k, s.rank), packed_len(s.rank, s.n)];
    (packed.iter().sum::<usize>() + TOKEN * pool_size()).saturating_mul(4)
}

/// `g = scale dy up`, `[rows, r]`, and the packed operands, or what the weight gradients need.
pub(super) fn backward_scratch(s: Shape) -> usize {
    let packed = [packed_len(s.n, s.k), packed_len(s.n, s.rank), packed_len(s.rank, s.k)];
    let data = packed.iter().sum::<usize>() + TOKEN * pool_size();
    let weights = OUTER_SCRATCH_LEN.saturating_mul(pool_size());
    s.rows.saturating_mul(s.rank).saturating_add(data.max(weights)).saturating_mul(4)
}

pub(super) fn forward(s: Shape, scale: f32, mut io: Forward<'_>) {
    let (x, out, h) = (io.ins[0].f32(), io.out.f32(), io.saved[0].f32());
    let sources = [
        transposed(io.ins[1].f32(), s.n, s.k, 1.0),
        transposed(io.ins[s.a].f32(), s.rank, s.k, scale),
        transposed(io.ins[s.a + 1].f32(), s.n, s.rank, 1.0),
    ];
    let mut rest = io.scratch.f32();
    let [w, a, up] = sources.map(|source| {
        let (packed, after) = std::mem::take(&mut rest).split_at_mut(source.packed_len());
        rest = after;
        pack(packed, &source);
        Right { data: packed, n: source.n }
    });
    let start = if s.a == 3 { Initial::Bias(io.ins[2].f32()) } else { Initial::Zero };
    let block = block(s.rows);
    let chunks = Pairs { out, n: s.n, h, r: s.rank, block, rows: s.rows }.enumerate();
    share(chunks, pieces(rest, TOKEN, s.flop()), TOKEN, |(i, (data, h)), _| {
        let count = block.min(s.rows - i * block);
        let rows = Rows::From(0);
        let x = consecutive(x, s.k, i * block);
        product(Out { data: h, rows }, x, a, Initial::Zero, count);
        product(Out { data, rows }, x, w, start, count);
        product(Out { data, rows }, consecutive(h, s.rank, 0), up, Initial::Old, count);
    });
}

/// Blocks of rows of two matrices, either of which may have no columns.
struct Pairs<'a> {
    out: &'a mut [f32],
    n: usize,
    h: &'a mut [f32],
    r: usize,
    block: usize,
    rows: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a mut [f32], &'a mut [f32]);

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.block.min(self.rows);
        if rows == 0 {
            return None;
        }
        self.rows -= rows;
        let (out, rest) = std::mem::take(&mut self.out).split_at_mut(rows * self.n);
        self.out = rest;
        let (h, rest) = std::mem::take(&mut self.h).split_at_mut(rows * self.r);
        self.h = rest;
        Some((out, h))
    }
}

pub(super) fn backward(s: Shape, scale: f32, mut io: Backward<'_>) {
    let dy = io.d_out.f32();
    let (dx, da) = (io.d_ins[0].wanted(), io.d_ins[s.a].wanted());
    let (g, scratch) = io.scratch.f32().split_at_mut(s.rows * s.rank);
    if dx || da {
        let kept = |i: usize| if dx { io.ins[i].f32() } else { &[] };
        let weights = [kept(1), kept(s.a), io.ins[s.a + 1].f32()];
        data_gradient(s, scale, dy, weights, &mut io.d_ins[0], g, scratch);
    }
    if da {
        let (overwrite, d) = target(&mut io.d_ins[s.a]);
        weight_gradient(d, (g, s.rank), (io.ins[0].f32(), s.k), (1.0, overwrite), scratch);
    }
    if io.d_ins[s.a + 1].wanted() {
        let (overwrite, d) = target(&mut io.d_ins[s.a + 1]);
        let h = io.saved[0].f32();
        weight_gradient(d, (dy, s.n), (h, s.rank), (1.0, overwrite), scratch);
    }
    if io.d_ins[1].wanted() {
        let (overwrite, d) = target(&mut io.d_ins[1]);
        weight_gradient(d, (dy, s.n), (io.ins[0].f32(), s.k), (1.0, overwrite), scratch);
    }
    if s.a == 3 && io.d_ins[2].wanted() {
        let beta = io.d_ins[2].beta();
        add_row_sums(io.d_ins[2].buf.f32(), dy, beta);
    }
}

fn target<'b>(grad: &'b mut Grad<'_>) -> (bool, &'b mut [f32]) {
    (grad.beta() == 0.0, grad.buf.f32())
}

/// `g = scale dy up` and, where wanted, `dx = dy w + g a`.
fn data_gradient(
    s: Shape,
    scale: f32,
    dy: &[f32],
    [w, a, up]: [&[f32]; 3],
    d_x: &mut Grad<'_>,
    g: &mut [f32],
    scratch: &mut [f32],
) {
    let wanted = d_x.wanted();
    let start = if d_x.beta() == 0.0 { Initial::Zero } else { Initial::Old };
    // a skipped gradient is a matrix without columns, as are w and a, which were not kept
    let k = if wanted { s.k } else { 0 };
    let dx = if wanted { d_x.buf.f32() } else { &mut [] };
    let sources = [plain(w, s.n, k, 1.0), plain(up, s.n, s.rank, scale), plain(a, s.rank, k, 1.0)];
    let mut rest = scratch;
    let [w, up, a] = sources.map(|source| {
        let (packed, after) = std::mem::take(&mut rest).split_at_mut(source.packed_len());
        rest = after;
        pack(packed, &source);
        Right { data: packed, n: source.n }
    });
    let block = block(s.rows);
    let chunks = Pairs { out: dx, n: k, h: g, r: s.rank, block, rows: s.rows }.enumerate();
    share(chunks, pieces(rest, TOKEN, s.flop()), TOKEN, |(i, (data, g)), _| {
        let count = block.min(s.rows - i * block);
        let rows = Rows::From(0);
        let dy = consecutive(dy, s.n, i * block);
        product(Out { data: g, rows }, dy, up, Initial::Zero, count);
        product(Out { data, rows }, dy, w, start, count);
        product(Out { data, rows }, consecutive(g, s.rank, 0), a, Initial::Old, count);
    });
}
