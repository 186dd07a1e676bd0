//! CPU: the adapter's thin products run on the rows, or beside the columns, that the base product just touched.

use super::Shape;
use crate::{
    device::cpu::{
        Initial, OUTER_SCRATCH_LEN, Out, Right, Term, TransposedTerm, Unpacked, add_row_sums,
        by_columns, by_transposed, pack, packed_len, pieces, pool_size, product, share,
        sum_columns, sum_columns_scratch, sum_transposed, sum_transposed_scratch,
    },
    kernels::linear::cpu::{TOKEN, block, consecutive, plain, transposed, weight_gradient},
    op::{Backward, Forward, Grad},
};

impl Shape {
    fn flop(&self) -> f64 {
        2.0 * self.rows as f64 * (self.n * self.k + self.rank * (self.n + self.k)) as f64
    }
}

/// Elements for `[rows, k]` times `[k, n]` beside `[rows, k]` times `[k, rank]` times `[rank, n]`; forward the
/// weights are transposed.
fn products_scratch([rows, k, n, rank]: [usize; 4], forward: bool) -> usize {
    let thin = packed_len(k, rank) + TOKEN * pool_size();
    if by_columns(rows, n) {
        let sum = if forward && by_transposed(rows, n) {
            sum_transposed_scratch((rows, n), [k, rank])
        } else {
            sum_columns_scratch(n)
        };
        return thin.max(sum);
    }
    thin.saturating_add(packed_len(k, n)).saturating_add(packed_len(rank, n))
}

pub(super) fn forward_scratch(s: Shape) -> usize {
    products_scratch([s.rows, s.k, s.n, s.rank], true).saturating_mul(4)
}

/// `g = scale dy up`, `[rows, r]`, and the packed operands, or what the weight gradients need.
pub(super) fn backward_scratch(s: Shape) -> usize {
    let data = products_scratch([s.rows, s.n, s.k, s.rank], false);
    let weights = OUTER_SCRATCH_LEN.saturating_mul(pool_size());
    s.rows.saturating_mul(s.rank).saturating_add(data.max(weights)).saturating_mul(4)
}

pub(super) fn forward(s: Shape, scale: f32, mut io: Forward<'_>) {
    let (x, out, h) = (io.ins[0].f32(), io.out.f32(), io.saved[0].f32());
    let right = [
        transposed(io.ins[1].f32(), s.n, s.k, 1.0),
        transposed(io.ins[s.a].f32(), s.rank, s.k, scale),
        transposed(io.ins[s.a + 1].f32(), s.n, s.rank, 1.0),
    ];
    let initial = if s.a == 3 { Initial::Bias(io.ins[2].f32()) } else { Initial::Zero };
    products(x, right, (h, out), initial, (s.rows, s.flop()), io.scratch.f32());
}

/// `thin = x a` and `out = initial + x w + thin up` for the right operands `[w, a, up]`.
fn products(
    x: &[f32],
    [w, a, up]: [Unpacked<'_>; 3],
    (thin, out): (&mut [f32], &mut [f32]),
    initial: Initial<'_>,
    (rows, flop): (usize, f64),
    scratch: &mut [f32],
) {
    let (k, n, r) = (w.len, w.n, a.n);
    if by_columns(rows, n) {
        let (packed, tokens) = scratch.split_at_mut(a.packed_len());
        pack(packed, &a);
        let right = Right { data: packed, n: r };
        blocks((thin, r), (&mut [], 0), (rows, flop), tokens, |i, count, thin, _| {
            product(Out::dense(thin), consecutive(x, k, i), right, Initial::Zero, count);
        });
        let dense = w.row_stride == 1 && w.scale == 1.0 && up.scale == 1.0;
        if dense && by_transposed(rows, n) {
            let base = TransposedTerm { left: x, right: w.data, len: k };
            let adapter = TransposedTerm { left: thin, right: up.data, len: r };
            return sum_transposed(out, (rows, n), [base, adapter], initial, scratch);
        }
        let base = Term { left: consecutive(x, k, 0), right: w };
        let adapter = Term { left: consecutive(thin, r, 0), right: up };
        return sum_columns(out, (rows, n), &[base, adapter], initial, scratch);
    }
    let mut rest = scratch;
    let [w, a, up] = [w, a, up].map(|source| {
        let (packed, after) = std::mem::take(&mut rest).split_at_mut(source.packed_len());
        rest = after;
        pack(packed, &source);
        Right { data: packed, n: source.n }
    });
    blocks((thin, r), (out, n), (rows, flop), rest, |i, count, thin, out| {
        let x = consecutive(x, k, i);
        product(Out::dense(thin), x, a, Initial::Zero, count);
        product(Out::dense(out), x, w, initial, count);
        product(Out::dense(out), consecutive(thin, r, 0), up, Initial::Old, count);
    });
}

/// Calls `f(first row, rows, of a, of b)` for blocks of rows of two matrices on all threads.
fn blocks(
    (a, a_width): (&mut [f32], usize),
    (b, b_width): (&mut [f32], usize),
    (rows, flop): (usize, f64),
    tokens: &mut [f32],
    f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync,
) {
    let block = block(rows);
    let chunks = Pairs { out: b, n: b_width, h: a, r: a_width, block, rows }.enumerate();
    share(chunks, pieces(tokens, TOKEN, flop), TOKEN, |(i, (b, a)), _| {
        f(i * block, block.min(rows - i * block), a, b);
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
    let right = [plain(w, s.n, k, 1.0), plain(up, s.n, s.rank, scale), plain(a, s.rank, k, 1.0)];
    products(dy, right, (g, dx), start, (s.rows, s.flop()), scratch);
}
