//! CPU: the adapter's thin products run on the rows, or beside the columns, that the base product just touched.

use super::Shape;
use crate::{
    device::{
        Buf,
        cpu::{
            Elements, Initial, OUTER_SCRATCH_LEN, Out, Right, Term, TransposedTerm, Unpacked,
            add_row_sums,
            bf16::{self, Side, Sum, Unit},
            by_columns, by_transposed, pack, packed_len, pieces, pool_size, product, share,
            sum_columns, sum_columns_scratch, sum_transposed, sum_transposed_scratch,
        },
    },
    kernels::linear::cpu::{
        TOKEN, add_residual, block, consecutive, plain, transposed, weight_gradient,
    },
    op::{Backward, Forward, Grad},
    tensor::DType,
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

/// A layer whose own weight is stored as `stored`.
pub(super) fn forward_scratch(s: Shape, stored: DType) -> usize {
    if Unit::of(stored).is_some() {
        return bf16::sum_scratch([s.rows, s.n], bf16::steps(1, s.k), s.rank).saturating_mul(4);
    }
    // halves are packed, wherever they lie
    let forward = stored == DType::F32;
    products_scratch([s.rows, s.k, s.n, s.rank], forward).saturating_mul(4)
}

/// `g = scale dy up`, `[rows, r]`, and the packed operands, or what the weight gradients need.
pub(super) fn backward_scratch(s: Shape, stored: DType) -> usize {
    if Unit::of(stored).is_some() {
        let positions = bf16::steps(1, s.rows);
        let data = bf16::sum_scratch([s.rows, s.k], bf16::steps(1, s.n), s.rank);
        let weights = bf16::sum_scratch([s.rank, s.k.max(s.n)], positions, 0);
        let g = s.rows.saturating_mul(s.rank).next_multiple_of(TOKEN);
        return g.saturating_add(data.max(weights)).saturating_mul(4);
    }
    let data = products_scratch([s.rows, s.n, s.k, s.rank], false);
    let weights = OUTER_SCRATCH_LEN.saturating_mul(pool_size());
    s.rows.saturating_mul(s.rank).saturating_add(data.max(weights)).saturating_mul(4)
}

pub(super) fn forward(s: Shape, scale: f32, mut io: Forward<'_>) {
    let layer = Layer {
        x: io.ins[0].f32(),
        w: Elements::of(io.ins[1], io.specs[1].dtype),
        a: io.ins[s.a].f32(),
        up: io.ins[s.a + 1].f32(),
        h: &[],
    };
    let bias = if s.a == 3 { Some(io.ins[2].f32()) } else { None };
    let made = (io.saved[0].f32(), io.out.f32());
    outputs((s, scale), &layer, bias, made, io.scratch.f32());
    if let Some(r) = io.ins.last().filter(|_| s.residual) {
        add_residual(io.out.f32(), r.f32());
    }
}

/// `h` and `y` of one layer; `scratch` has [`forward_scratch`] bytes.
pub(super) fn outputs(
    (s, scale): (Shape, f32),
    layer: &Layer<'_>,
    bias: Option<&[f32]>,
    made: (&mut [f32], &mut [f32]),
    scratch: &mut [f32],
) {
    let right = [
        transposed(layer.w, s.n, s.k, 1.0),
        transposed(layer.a, s.rank, s.k, scale),
        transposed(layer.up, s.n, s.rank, 1.0),
    ];
    let initial = bias.map_or(Initial::Zero, Initial::Bias);
    products(layer.x, right, made, initial, (s.rows, s.flop()), scratch);
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
    if let Some(unit) = w.data.unit() {
        let left = Side::Rows(consecutive(x, k, 0));
        let sum = Sum { unit, left, rows, right: w, adapter: Some([a, up]) };
        return sum.run(out, false, thin, initial, scratch);
    }
    if by_columns(rows, n) {
        let (packed, tokens) = scratch.split_at_mut(a.packed_len());
        pack(packed, &a);
        let right = Right { data: packed, n: r };
        blocks((thin, r), (&mut [], 0), (rows, flop), tokens, |i, count, thin, _| {
            product(Out::dense(thin), consecutive(x, k, i), right, Initial::Zero, count);
        });
        let dense = w.row_stride == 1 && w.scale == 1.0 && up.scale == 1.0;
        if let (true, Some(w), Some(up)) =
            (dense && by_transposed(rows, n), w.data.f32(), up.data.f32())
        {
            let base = TransposedTerm { left: x, right: w, len: k };
            let adapter = TransposedTerm { left: thin, right: up, len: r };
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
    let stored = io.specs[1].dtype;
    let dx_wanted = io.d_ins[0].wanted();
    let layer = Layer {
        x: io.ins[0].f32(),
        w: if dx_wanted { Elements::of(io.ins[1], stored) } else { empty(stored) },
        a: if dx_wanted { io.ins[s.a].f32() } else { &[] },
        up: io.ins[s.a + 1].f32(),
        h: io.saved.first().map_or(&[], |h| h.f32()),
    };
    if io.d_ins[1].wanted() {
        let overwrite = io.d_ins[1].beta() == 0.0;
        let (dw, scratch) = (io.d_ins[1].buf.f32(), io.scratch.f32());
        weight_gradient(dw, (dy, s.n), (layer.x, s.k), (1.0, overwrite), scratch);
    }
    if s.a == 3 && io.d_ins[2].wanted() {
        let beta = io.d_ins[2].beta();
        add_row_sums(io.d_ins[2].buf.f32(), dy, beta);
    }
    let (dx, rest) = io.d_ins.split_at_mut(1);
    let (da, dup) = rest[s.a - 1..].split_at_mut(1);
    let [dx, da, dup] = [dx, da, dup].map(|g| target(&mut g[0]));
    gradients((s, scale, stored), &layer, dy, Wanted { dx, da, dup }, io.scratch.f32());
}

/// What backward reads of one layer; empty where nothing wanted needs it.
pub(super) struct Layer<'a> {
    pub x: &'a [f32],
    pub w: Elements<'a>,
    pub a: &'a [f32],
    pub up: &'a [f32],
    pub h: &'a [f32],
}

/// A wanted gradient and whether its old content is lost.
pub(super) type Target<'a> = Option<(bool, &'a mut [f32])>;

/// The wanted gradients of one layer's input and adapter.
pub(super) struct Wanted<'a> {
    pub dx: Target<'a>,
    pub da: Target<'a>,
    pub dup: Target<'a>,
}

/// Computes them; `scratch` has [`backward_scratch`] bytes.
pub(super) fn gradients(
    (s, scale, stored): (Shape, f32, DType),
    layer: &Layer<'_>,
    dy: &[f32],
    wanted: Wanted<'_>,
    scratch: &mut [f32],
) {
    let unit = Unit::of(stored);
    // packed operands begin where tiles like to read
    let end = (s.rows * s.rank).next_multiple_of(if unit.is_some() { TOKEN } else { 1 });
    let (g, scratch) = scratch.split_at_mut(end);
    let g = &mut g[..s.rows * s.rank];
    if wanted.dx.is_some() || wanted.da.is_some() {
        data_gradient(s, scale, dy, (layer.w, [layer.a, layer.up]), wanted.dx, g, scratch);
    }
    if let Some((overwrite, d)) = wanted.da {
        match unit {
            Some(unit) => {
                thin_gradient(unit, (d, false), (g, s.rank), (layer.x, s.k), overwrite, scratch)
            }
            None => weight_gradient(d, (g, s.rank), (layer.x, s.k), (1.0, overwrite), scratch),
        }
    }
    if let Some((overwrite, d)) = wanted.dup {
        match unit {
            Some(unit) => {
                thin_gradient(unit, (d, true), (layer.h, s.rank), (dy, s.n), overwrite, scratch)
            }
            None => weight_gradient(d, (dy, s.n), (layer.h, s.rank), (1.0, overwrite), scratch),
        }
    }
}

/// The elements of a weight that was not kept.
pub(super) fn empty(stored: DType) -> Elements<'static> {
    Elements::of(Buf::EMPTY, stored)
}

/// `d [rank, n] = start + thin^T wide` for `thin: [rows, rank]`, `wide: [rows, n]`, or transposed, `turned`.
fn thin_gradient(
    unit: Unit,
    (d, turned): (&mut [f32], bool),
    (thin, rank): (&[f32], usize),
    (wide, n): (&[f32], usize),
    overwrite: bool,
    scratch: &mut [f32],
) {
    let Some(rows) = thin.len().checked_div(rank) else { return };
    let start = if overwrite { Initial::Zero } else { Initial::Old };
    let left = Side::Columns(plain(thin, rows, rank, 1.0));
    let sum = Sum { unit, left, rows: rank, right: plain(wide, rows, n, 1.0), adapter: None };
    sum.run(d, turned, &mut [], start, scratch);
}

/// A gradient, where it is wanted.
pub(super) fn target<'b>(grad: &'b mut Grad<'_>) -> Target<'b> {
    grad.wanted().then(|| (grad.beta() == 0.0, grad.buf.f32()))
}

/// `g = scale dy up` and, where wanted, `dx = dy w + g a`.
fn data_gradient(
    s: Shape,
    scale: f32,
    dy: &[f32],
    (w, [a, up]): (Elements<'_>, [&[f32]; 2]),
    dx: Target<'_>,
    g: &mut [f32],
    scratch: &mut [f32],
) {
    // a skipped gradient is a matrix without columns, as are w and a, which were not kept
    let k = if dx.is_some() { s.k } else { 0 };
    let (overwrite, dx) = dx.unwrap_or((true, &mut []));
    let start = if overwrite { Initial::Zero } else { Initial::Old };
    let right = [plain(w, s.n, k, 1.0), plain(up, s.n, s.rank, scale), plain(a, s.rank, k, 1.0)];
    products(dy, right, (g, dx), start, (s.rows, s.flop()), scratch);
}
