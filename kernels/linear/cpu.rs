//! CPU: products with the packed weight; the weight gradient sums outer products.

use super::rows;
use crate::{
    device::cpu::{
        Columns, Elements, Initial, Left, Mat, MatMut, OUTER_DEPTH, OUTER_SCRATCH_LEN, Out, Right,
        Rows, Taps, Term, Threads, TransposedTerm, Unpacked, add_row_sums,
        bf16::{self, Side, Sum, Unit},
        by_columns, by_transposed, fill_rows, for_chunks, matmul, outer, outer_rows, pack,
        packed_len, pieces, pool_size, product, share, sum_columns, sum_columns_scratch,
        sum_transposed, sum_transposed_scratch,
    },
    op::{Backward, Forward},
    tensor::DType,
};

/// Most rows of one piece of work.
const BLOCK: usize = 240; // whole tiles of 8 rows and of 6
/// Rows below which packing the weight costs more than it brings.
const FEW_ROWS: usize = 24;

/// Rows of one piece: at least two pieces a thread, but not less than a few tiles.
pub(crate) fn block(rows: usize) -> usize {
    rows.div_ceil(2 * pool_size()).next_multiple_of(24).clamp(48, BLOCK)
}

/// Scratch elements of one thread that needs none: [`share`] counts threads by pieces.
pub(crate) const TOKEN: usize = 16;

/// The transpose of a dense `[n, k]` weight, as the right operand of `x w^T`.
pub(crate) fn transposed<'a>(
    data: impl Into<Elements<'a>>,
    n: usize,
    k: usize,
    scale: f32,
) -> Unpacked<'a> {
    let data = data.into();
    let taps = Taps::All(1);
    Unpacked { data, taps, tap_stride: 0, len: k, row_stride: 1, n, column_stride: k, scale }
}

/// A dense `[k, n]` weight as the right operand of `dy w`.
pub(crate) fn plain<'a>(
    data: impl Into<Elements<'a>>,
    k: usize,
    n: usize,
    scale: f32,
) -> Unpacked<'a> {
    let data = data.into();
    let taps = Taps::All(1);
    Unpacked { data, taps, tap_stride: 0, len: k, row_stride: n, n, column_stride: 1, scale }
}

/// Consecutive rows of a dense matrix with `len` columns.
pub(crate) fn consecutive(data: &[f32], len: usize, first: usize) -> Left<'_> {
    Left { data, len, rows: Rows::From(first), taps: 1 }
}

/// A product with a weight stored as `stored`.
pub(super) fn forward_scratch([rows, n, k]: [usize; 3], stored: DType) -> usize {
    let len = match rows {
        _ if Unit::of(stored).is_some() => bf16::sum_scratch([rows, n], bf16::steps(1, k), 0),
        0..FEW_ROWS if stored == DType::F32 => 0,
        _ if stored == DType::F32 && by_transposed(rows, n) => {
            sum_transposed_scratch((rows, n), [k])
        }
        _ if by_columns(rows, n) => sum_columns_scratch(n),
        _ => packed_len(k, n) + TOKEN * pool_size(),
    };
    len.saturating_mul(4)
}

pub(super) fn backward_scratch([rows, n, k]: [usize; 3], stored: DType) -> usize {
    let input = match rows {
        _ if Unit::of(stored).is_some() => bf16::sum_scratch([rows, k], bf16::steps(1, n), 0),
        0..FEW_ROWS if stored == DType::F32 => 0,
        _ if by_columns(rows, k) => sum_columns_scratch(k),
        _ => packed_len(n, k) + TOKEN * pool_size(),
    };
    input.max(OUTER_SCRATCH_LEN.saturating_mul(pool_size())).saturating_mul(4)
}

pub(super) fn forward(mut io: Forward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let (x, w) = (io.ins[0].f32(), Elements::of(io.ins[1], io.specs[1].dtype));
    let out = io.out.f32();
    let bias = io.ins.get(2).map(|b| b.f32());
    layer(out, x, w, bias, [m, n, k], io.scratch.f32());
}

/// `out [m, n] = x w^T + bias`; `scratch` has [`forward_scratch`] bytes.
pub(super) fn layer(
    out: &mut [f32],
    x: &[f32],
    w: Elements<'_>,
    bias: Option<&[f32]>,
    [m, n, k]: [usize; 3],
    scratch: &mut [f32],
) {
    let start = bias.map_or(Initial::Zero, Initial::Bias);
    let Some(w) = w.f32() else {
        return times(out, x, &transposed(w, n, k, 1.0), start, m, scratch);
    };
    if m < FEW_ROWS {
        bias.iter().for_each(|b| fill_rows(out, b));
        let beta = if bias.is_some() { 1.0 } else { 0.0 };
        let w = Mat::new(w, n, k).t();
        return matmul(MatMut::new(out, m, n), Mat::new(x, m, k), w, 1.0, beta, Threads::All);
    }
    if by_transposed(m, n) {
        let term = TransposedTerm { left: x, right: w, len: k };
        return sum_transposed(out, (m, n), [term], start, scratch);
    }
    times(out, x, &transposed(w, n, k, 1.0), start, m, scratch);
}

/// `out += r`: a residual, behind everything else that is summed.
pub(crate) fn add_residual(out: &mut [f32], r: &[f32]) {
    for_chunks(
        out,
        1,
        #[inline(always)]
        |at, chunk| chunk.iter_mut().zip(&r[at..]).for_each(|(y, r)| *y += r),
    );
}

/// `out = start + x source` for `rows` rows on all threads.
fn times(
    out: &mut [f32],
    x: &[f32],
    source: &Unpacked<'_>,
    start: Initial<'_>,
    rows: usize,
    scratch: &mut [f32],
) {
    let (k, n) = (source.len, source.n);
    if out.is_empty() {
        return;
    }
    if let Some(unit) = source.data.unit() {
        let left = Side::Rows(consecutive(x, k, 0));
        let sum = Sum { unit, left, rows, right: *source, adapter: None };
        return sum.run(out, false, &mut [], start, scratch);
    }
    if by_columns(rows, n) {
        let term = Term { left: consecutive(x, k, 0), right: *source };
        return sum_columns(out, (rows, n), &[term], start, scratch);
    }
    let (packed, tokens) = scratch.split_at_mut(source.packed_len());
    pack(packed, source);
    let right = Right { data: packed, n };
    let block = block(rows);
    let flop = 2.0 * (rows * n) as f64 * k as f64;
    let chunks = out.chunks_mut(block * n).enumerate();
    share(chunks, pieces(tokens, TOKEN, flop), TOKEN, |(i, data), _| {
        let count = data.len() / n;
        let out = Out { data, rows: Rows::From(0) };
        product(out, consecutive(x, k, i * block), right, start, count);
    });
}

/// `out[n, k] = start + scale a^T b` for dense `a: [rows, n]`, `b: [rows, k]` on all threads: each owns
/// rows of the result and sums over all positions in order.
pub(crate) fn weight_gradient(
    out: &mut [f32],
    (a, n): (&[f32], usize),
    (b, k): (&[f32], usize),
    (scale, overwrite): (f32, bool),
    scratch: &mut [f32],
) {
    let rows = a.len().checked_div(n).unwrap_or(0);
    if out.is_empty() {
        return;
    }
    if rows == 0 {
        if overwrite {
            out.fill(0.0);
        }
        return;
    }
    let own = outer_rows(n, pool_size());
    let flop = 2.0 * (rows * n) as f64 * k as f64;
    let piece = OUTER_SCRATCH_LEN;
    let chunks = out.chunks_mut(own * k).enumerate();
    share(chunks, pieces(scratch, piece, flop), piece, |(i, out), scratch| {
        for first in (0..rows).step_by(OUTER_DEPTH) {
            let count = OUTER_DEPTH.min(rows - first);
            let a = Columns {
                data: &a[first * n..],
                stride: n,
                first: i * own,
                rows: out.len() / k,
                scale,
            };
            outer(out, a, consecutive(b, k, first), overwrite && first == 0, count, scratch);
        }
    });
}

/// `dx [m, k] = beta dx + dy w`; `scratch` has [`backward_scratch`] bytes.
pub(super) fn input_gradient(
    dx: &mut [f32],
    dy: &[f32],
    w: Elements<'_>,
    [m, n, k]: [usize; 3],
    beta: f32,
    scratch: &mut [f32],
) {
    if let (0..FEW_ROWS, Some(w)) = (m, w.f32()) {
        let (dy, w) = (Mat::new(dy, m, n), Mat::new(w, n, k));
        matmul(MatMut::new(dx, m, k), dy, w, 1.0, beta, Threads::All);
    } else {
        let start = if beta == 0.0 { Initial::Zero } else { Initial::Old };
        times(dx, dy, &plain(w, n, k, 1.0), start, m, scratch);
    }
}

pub(super) fn backward(mut io: Backward<'_>) {
    let (m, k, n) = (rows(&io.specs[0]), io.specs[0].last(), io.out_spec.last());
    let dy = io.d_out.f32();
    let scratch = io.scratch.f32();
    if io.d_ins[0].wanted() {
        let beta = io.d_ins[0].beta();
        let w = Elements::of(io.ins[1], io.specs[1].dtype);
        input_gradient(io.d_ins[0].buf.f32(), dy, w, [m, n, k], beta, scratch);
    }
    if io.d_ins[1].wanted() {
        let overwrite = io.d_ins[1].beta() == 0.0;
        let dw = io.d_ins[1].buf.f32();
        weight_gradient(dw, (dy, n), (io.ins[0].f32(), k), (1.0, overwrite), scratch);
    }
    if let Some(db) = io.d_ins.get_mut(2).filter(|g| g.wanted()) {
        let beta = db.beta();
        add_row_sums(db.buf.f32(), dy, beta);
    }
}
