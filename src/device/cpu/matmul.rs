//! Safe f32 matrix product with strides.

use super::{
    lanes::LANES,
    mat::{Mat, MatMut},
    pack::{Taps, Unpacked, pack_here, packed_len},
    product::Right,
    tile::{MAX_DEPTH, MAX_PANEL, MAX_ROWS, Seed, Tile, tiles},
};
use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

/// How many threads one product may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread: for products inside a parallel loop.
    One,
    /// The whole pool.
    All,
}

/// Columns of the right operand that are packed at a time: with 256 rows 384 KiB, a part of the
/// second-level cache.
const PACKED_COLUMNS: usize = 384;
/// Rows up to which a column-contiguous right operand is not worth packing.
const FEW_ROWS: usize = 24;
/// Multiply-adds below which one thread does all.
const SOLO: usize = 1 << 20;

thread_local! {
    /// The packed part of the right operand, kept from call to call.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(vec![]) };
}

/// `c = alpha a b + beta c`, f32 with f32 accumulation; `beta = 0` never reads `c`.
///
/// Every element is the sum over `k` in order, so the result depends neither on the number of threads nor
/// on which rows and columns are asked for.
///
/// # Panics
/// When shapes or storage do not fit: a bug of the calling operation, whose `infer` checked them.
pub fn matmul(c: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, alpha: f32, beta: f32, threads: Threads) {
    assert!(a.rows == c.rows && b.cols == c.cols && a.cols == b.rows, "matmul: shapes");
    let (m, n, k) = (c.rows, c.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    if beta != 1.0 && (beta != 0.0 || k == 0 || alpha == 0.0) {
        for row in c.data.chunks_mut(c.row_stride.max(1)).take(m) {
            row[..n].iter_mut().for_each(|v| *v = if beta == 0.0 { 0.0 } else { *v * beta });
        }
    }
    if k == 0 || alpha == 0.0 {
        return;
    }
    assert!(span((m, a.row_stride), (k, a.col_stride)) < a.data.len(), "matmul: a is too short");
    assert!(span((k, b.row_stride), (n, b.col_stride)) < b.data.len(), "matmul: b is too short");
    assert!(span((m, c.row_stride), (n, 1)) < c.data.len(), "matmul: c is too short");
    assert!(n <= c.row_stride || m == 1, "matmul: rows of c overlap");
    let job = Job { a, b, c: Shared(c.data.as_mut_ptr(), c.row_stride), alpha, add: beta != 0.0 };
    let (panel, size) = (tiles().panel, super::pool_size());
    if threads == Threads::One || size == 1 || m * n * k < SOLO {
        return job.part(0..m, 0..n);
    }
    // by columns for few rows
    if m < size * FEW_ROWS {
        let each = n.div_ceil(2 * size).next_multiple_of(panel);
        let parts = (0..n.div_ceil(each)).into_par_iter();
        parts.for_each(|i| job.part(0..m, i * each..n.min((i + 1) * each)));
    } else {
        let each = m.div_ceil(size).next_multiple_of(tiles().rows);
        let parts = (0..m.div_ceil(each)).into_par_iter();
        parts.for_each(|i| job.part(i * each..m.min((i + 1) * each), 0..n));
    }
}

/// `c = a b`, or `c += a b`, where `b` is packed already: on the calling thread, as [`matmul`] sums.
///
/// # Panics
/// As [`matmul`].
pub fn matmul_packed(c: MatMut<'_>, a: Mat<'_>, b: Right<'_>, add: bool) {
    let (m, n, k) = (c.rows, c.cols, a.cols);
    assert!(a.rows == m && b.n == n && packed_len(k, n) <= b.data.len(), "matmul: shapes");
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert!(span((m, a.row_stride), (k, a.col_stride)) < a.data.len(), "matmul: a is too short");
    assert!(span((m, c.row_stride), (n, 1)) < c.data.len(), "matmul: c is too short");
    assert!(n <= c.row_stride || m == 1, "matmul: rows of c overlap");
    // `Job::b` is never read: every slab comes with its panels
    let job = Job { a, b: a, c: Shared(c.data.as_mut_ptr(), c.row_stride), alpha: 1.0, add };
    for from in (0..k).step_by(tiles().depth) {
        let slab = from..k.min(from + tiles().depth);
        job.slab(&(0..m), 0..n, &slab, Some(Panels { data: b.data, rows: k, skip: from }));
    }
}

/// Elements from the first of a strided matrix to its last.
fn span((rows, row_stride): (usize, usize), (cols, col_stride): (usize, usize)) -> usize {
    (rows - 1) * row_stride + (cols - 1) * col_stride
}

/// Panels of so many rows, of which those of a slab begin after `skip`.
#[derive(Clone, Copy)]
struct Panels<'a> {
    data: &'a [f32],
    rows: usize,
    skip: usize,
}

/// The first element of the destination and the elements from one of its rows to the next.
#[derive(Clone, Copy)]
struct Shared(*mut f32, usize);

// SAFETY: the parts of a job write disjoint rows or columns of the destination, which is uniquely borrowed
// as long as the job lives.
unsafe impl Sync for Shared {}

/// A product whose operands were bounded.
struct Job<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    c: Shared,
    alpha: f32,
    add: bool,
}

impl Job<'_> {
    /// The destination's `rows` and `columns`, on the calling thread.
    fn part(&self, rows: Range<usize>, columns: Range<usize>) {
        if rows.len() < FEW_ROWS && self.b.row_stride == 1 && self.b.col_stride != 1 {
            return self.turned(rows, columns);
        }
        let depth = self.a.cols.div_ceil(self.a.cols.div_ceil(MAX_DEPTH));
        let few = rows.len() < FEW_ROWS && self.b.col_stride == 1 && self.alpha == 1.0;
        PACKED.with_borrow_mut(|packed| {
            for first in columns.clone().step_by(PACKED_COLUMNS) {
                let columns = first..columns.end.min(first + PACKED_COLUMNS);
                for from in (0..self.a.cols).step_by(depth) {
                    let k = from..self.a.cols.min(from + depth);
                    // where nothing is packed, the last columns do not fill a vector
                    let whole = if few { columns.len() / LANES * LANES } else { 0 };
                    let split = columns.start + whole;
                    self.slab(&rows, columns.start..split, &k, None);
                    self.pack(packed, split..columns.end, &k);
                    let panels = Panels { data: packed, rows: k.len(), skip: 0 };
                    self.slab(&rows, split..columns.end, &k, Some(panels));
                }
            }
        });
    }

    fn pack(&self, to: &mut Vec<f32>, columns: Range<usize>, k: &Range<usize>) {
        if columns.is_empty() {
            return;
        }
        let source = Unpacked {
            data: self.b.data[k.start * self.b.row_stride + columns.start * self.b.col_stride..]
                .into(),
            taps: Taps::All(1),
            tap_stride: 0,
            len: k.len(),
            row_stride: self.b.row_stride,
            n: columns.len(),
            column_stride: self.b.col_stride,
            scale: self.alpha,
        };
        to.resize(to.len().max(source.packed_len()), 0.0);
        pack_here(&mut to[..source.packed_len()], &source);
    }

    /// The transposed product for few rows of `a` and a `b` whose `k` are neighbours, `x w^T`: then `a` is
    /// packed, and `b` is read once, where it lies.
    fn turned(&self, rows: Range<usize>, columns: Range<usize>) {
        let (k, tiles, Shared(c, stride)) = (self.a.cols, tiles(), self.c);
        let source = Unpacked {
            data: self.a.data[rows.start * self.a.row_stride..].into(),
            taps: Taps::All(1),
            tap_stride: 0,
            len: k,
            row_stride: self.a.col_stride,
            n: rows.len(),
            column_stride: self.a.row_stride,
            scale: self.alpha,
        };
        PACKED.with_borrow_mut(|packed| {
            packed.resize(packed.len().max(source.packed_len()), 0.0);
            pack_here(packed, &source);
            for column in columns.clone().step_by(tiles.rows) {
                let count = tiles.rows.min(columns.end - column);
                let mut a = [std::ptr::null(); MAX_ROWS];
                for (i, a) in a[..count].iter_mut().enumerate() {
                    *a = self.b.data[(column + i) * self.b.col_stride..].as_ptr();
                }
                for row in (0..rows.len()).step_by(tiles.panel) {
                    let width = (rows.len() - row).min(tiles.panel);
                    let vectors = width.div_ceil(LANES);
                    let mut turned = [[0.0f32; MAX_PANEL]; MAX_ROWS];
                    let at = |i: usize, j: usize| (rows.start + row + j) * stride + column + i;
                    for (i, turned) in
                        turned[..count].iter_mut().enumerate().take_while(|_| self.add)
                    {
                        for (j, v) in turned[..width].iter_mut().enumerate() {
                            // SAFETY: matmul bounded every row and column of the destination.
                            *v = unsafe { *c.add(at(i, j)) };
                        }
                    }
                    let t = Tile {
                        a: &raw const a,
                        segments: 1,
                        len: k,
                        step: 1,
                        b: packed[row * k..].as_ptr(),
                        b_step: vectors * LANES,
                        c: turned.each_mut().map(|r| r.as_mut_ptr()),
                        bias: std::ptr::null(),
                        seed: Seed::Old,
                    };
                    // SAFETY: `count` rows of b with `k` elements, a packed panel, and rows beside it.
                    unsafe { tiles.get(count, vectors)(&t) };
                    for (i, turned) in turned[..count].iter().enumerate() {
                        for (j, v) in turned[..width].iter().enumerate() {
                            // SAFETY: as above.
                            unsafe { *c.add(at(i, j)) = *v };
                        }
                    }
                }
            }
        });
    }

    /// Adds the products over `k`; the right operand from its panels, or from where it lies.
    fn slab(
        &self,
        rows: &Range<usize>,
        columns: Range<usize>,
        k: &Range<usize>,
        packed: Option<Panels<'_>>,
    ) {
        let tiles = tiles();
        let seed = if self.add || k.start > 0 { Seed::Old } else { Seed::Zero };
        for column in columns.clone().step_by(tiles.panel) {
            let width = (columns.end - column).min(tiles.panel);
            let vectors = width.div_ceil(LANES);
            let (b, b_step) = match packed {
                Some(p) => {
                    let skip = (column - columns.start) * p.rows + p.skip * vectors * LANES;
                    (p.data[skip..].as_ptr(), vectors * LANES)
                }
                None => {
                    let at = k.start * self.b.row_stride + column;
                    (self.b.data[at..].as_ptr(), self.b.row_stride)
                }
            };
            for row in rows.clone().step_by(tiles.rows) {
                let count = tiles.rows.min(rows.end - row);
                let mut a = [std::ptr::null(); MAX_ROWS];
                for (i, a) in a[..count].iter_mut().enumerate() {
                    let at = (row + i) * self.a.row_stride + k.start * self.a.col_stride;
                    *a = self.a.data[at..].as_ptr();
                }
                let t = Tile {
                    a: &raw const a,
                    segments: 1,
                    len: k.len(),
                    step: self.a.col_stride,
                    b,
                    b_step,
                    c: [std::ptr::null_mut(); MAX_ROWS],
                    bias: std::ptr::null(),
                    seed,
                };
                self.place(t, (row, count), (column, width));
            }
        }
    }

    /// Runs a tile on the destination, or beside it where the columns do not fill its vectors.
    fn place(&self, mut t: Tile, (row, count): (usize, usize), (column, width): (usize, usize)) {
        let vectors = width.div_ceil(LANES);
        let Shared(c, stride) = self.c;
        for (i, to) in t.c[..count].iter_mut().enumerate() {
            // SAFETY: matmul bounded every row and column of the destination.
            *to = unsafe { c.add((row + i) * stride + column) };
        }
        if width == vectors * LANES {
            // SAFETY: as above, and of both operands; panels hold `k` rows of so many vectors.
            unsafe { tiles().get(count, vectors)(&t) };
            return;
        }
        let mut beside = [[0.0f32; MAX_PANEL]; MAX_ROWS];
        let own = t.c;
        for (i, beside) in beside[..count].iter_mut().enumerate() {
            if t.seed == Seed::Old {
                // SAFETY: `width` columns of the row are the part's own.
                unsafe { beside.as_mut_ptr().copy_from_nonoverlapping(own[i], width) };
            }
            t.c[i] = beside.as_mut_ptr();
        }
        // SAFETY: as above; the rows beside hold a full panel.
        unsafe { tiles().get(count, vectors)(&t) };
        for (i, beside) in beside[..count].iter().enumerate() {
            // SAFETY: as above.
            unsafe { own[i].copy_from_nonoverlapping(beside.as_ptr(), width) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Isa;

    #[test]
    fn every_transposition_and_beta_agrees_with_the_triple_loop() {
        let (m, n, k) = (13, 37, 29);
        let value = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
        for (ta, tb, alpha, beta) in
            [(false, false, 1.0, 0.0), (true, false, 0.5, 1.0), (false, true, 2.0, 0.5)]
        {
            let am = if ta { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
            let bm = if tb { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
            let start: Vec<f32> =
                (0..m * n).map(|i| if beta == 0.0 { f32::NAN } else { value(i + 9) }).collect();
            for threads in [Threads::One, Threads::All] {
                let mut c = start.clone();
                matmul(MatMut::new(&mut c, m, n), am, bm, alpha, beta, threads);
                for i in 0..m {
                    for j in 0..n {
                        let dot: f32 = (0..k)
                            .map(|t| {
                                a[i * am.row_stride + t * am.col_stride]
                                    * b[t * bm.row_stride + j * bm.col_stride]
                            })
                            .sum();
                        let old = if beta == 0.0 { 0.0 } else { beta * start[i * n + j] };
                        assert!((c[i * n + j] - (alpha * dot + old)).abs() < 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_however_many_rows_threads_and_columns_there_are() {
        let (m, n, k) = (61, 130, 300);
        let value = |i: usize| ((i * 7919) % 10_007) as f32 / 5000.0 - 1.0;
        let a: Vec<f32> = (0..m * k).map(value).collect();
        let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
        for turned in [false, true] {
            let right = if turned { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
            let mut all = vec![1.0f32; m * n];
            let left = Mat::new(&a, m, k);
            matmul(MatMut::new(&mut all, m, n), left, right, 1.0, 1.0, Threads::All);
            for rows in [1, 2, 17, 40] {
                let mut few = vec![1.0f32; rows * n];
                let left = Mat::new(&a, rows, k);
                matmul(MatMut::new(&mut few, rows, n), left, right, 1.0, 1.0, Threads::One);
                assert!(few == all[..rows * n], "{rows} rows, turned {turned}");
            }
            let mut chain = 1.0f32;
            for t in 0..k {
                let b = right.data[t * right.row_stride + 7 * right.col_stride];
                chain = if Isa::current() == Isa::Portable {
                    chain + a[t] * b
                } else {
                    a[t].mul_add(b, chain)
                };
            }
            assert_eq!(all[7], chain, "the sum is not over k in order");
        }
    }
}
