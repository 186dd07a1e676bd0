//! Sums of products with large transposed right operands, `x w^T`: `w` is read once, where it lies.
//!
//! The tiles want one operand packed and read the other along `k`, by one pointer a row. The rows of `w`
//! are such rows, so the transposed sum `w x^T` needs nothing of `w` packed: `x`, which is smaller, is. Threads own
//! columns of the result, which are rows of `w`; their sums stay in the second-level cache, and are transposed back
//! when they are finished.

use super::{
    columns::{First, by_columns},
    isa::Isa,
    lanes::{LANES, transpose},
    mat::Mat,
    pack::{Unpacked, pack, packed_len},
    product::Initial,
    share::{pieces, pool_size, share},
    tile::{LINE, MAX_ROWS, Seed, Tile, fetch, tiles},
};

/// Sums of a block, 192 KiB: a part of the second-level cache.
const SUMS: usize = 48 * 1024;
/// Most columns of a block: with 160 of `k` 160 KiB of the right operand.
const MOST: usize = 256;

/// Most rows: more of them packed, `x` would leave the second-level cache from block to block.
const ROWS: usize = 512;

/// Whether [`sum_transposed`] makes an `rows x n` result faster than [`super::sum_columns`] or rows shared out.
pub fn by_transposed(rows: usize, n: usize) -> bool {
    rows <= ROWS && by_columns(rows, n)
}

/// A product `x w^T` of dense operands.
#[derive(Clone, Copy, Debug)]
pub struct TransposedTerm<'a> {
    /// `x`, `[rows, len]`.
    pub left: &'a [f32],
    /// `w`, `[n, len]`.
    pub right: &'a [f32],
    /// The length of the sum.
    pub len: usize,
}

/// Columns of a block: whole vectors and whole tiles, blocks for all threads.
fn width(rows: usize, n: usize) -> usize {
    // tiles have 8 or 6 rows; both end with a vector at 48
    let unit = if LANES.is_multiple_of(tiles().rows) { LANES } else { 3 * LANES };
    let most = (SUMS / rows.next_multiple_of(LANES)).min(MOST) / unit;
    let threads = pool_size();
    // columns of the thread with most of them
    let longest = |width: usize| n.div_ceil(width).div_ceil(threads) * width;
    let widths = || (1..=most.max(1)).rev().map(|units| units * unit);
    let least = widths().map(longest).min().unwrap_or(n);
    widths().find(|width| longest(*width) * 24 <= least * 25).unwrap_or(unit)
}

/// Scratch elements of [`sum_transposed`] for terms of so many elements: packed rows, and sums of every thread.
pub fn sum_transposed_scratch(
    (rows, n): (usize, usize),
    lens: impl IntoIterator<Item = usize>,
) -> usize {
    let packed = lens.into_iter().map(|len| packed_len(len, rows)).sum::<usize>();
    let sums = packed_len(width(rows, n), rows).saturating_mul(pool_size());
    packed.saturating_add(sums)
}

/// `out [rows, n] = initial + sum over terms of left right^T` on all threads.
///
/// # Panics
/// When operands do not fit: a bug of the calling operation.
pub fn sum_transposed<const N: usize>(
    out: &mut [f32],
    (rows, n): (usize, usize),
    terms: [TransposedTerm<'_>; N],
    initial: Initial<'_>,
    scratch: &mut [f32],
) {
    if rows == 0 || n == 0 {
        return;
    }
    assert!(rows * n <= out.len(), "sum_transposed: output");
    let mut rest = scratch;
    let terms = terms.map(|TransposedTerm { left, right, len }| {
        assert!(rows * len <= left.len(), "sum_transposed: left operand");
        assert!(n * len <= right.len(), "sum_transposed: right operand");
        let (x, after) = std::mem::take(&mut rest).split_at_mut(packed_len(len, rows));
        rest = after;
        pack(x, &Unpacked::of(Mat::new(left, rows, len).t(), 1.0));
        Packed { x, w: right, len }
    });
    let k: usize = terms.iter().map(|t| t.len).sum();
    let (width, flop) = (width(rows, n), 2.0 * (rows * n) as f64 * k as f64);
    let piece = packed_len(width, rows);
    let first = First::new(out);
    share((0..n).step_by(width), pieces(rest, piece, flop), piece, |column, sums| {
        // most likely this thread's next block
        let next = column + width * pool_size();
        let mut block = Block { column, width: width.min(n - column), next, rows, n, sums };
        // SAFETY: the assertion above bounded all rows; blocks are disjoint columns of a unique borrow.
        unsafe {
            block.start(first, initial);
            terms.iter().for_each(|term| block.add(term));
            block.finish(first);
        }
    });
}

/// The packed rows of `x`, and `w`.
struct Packed<'a> {
    x: &'a [f32],
    w: &'a [f32],
    len: usize,
}

/// The transposed sums of some columns: panels of rows of the result, each `[width, panel]`.
struct Block<'a> {
    column: usize,
    width: usize,
    next: usize,
    rows: usize,
    n: usize,
    sums: &'a mut [f32],
}

impl Block<'_> {
    /// `(first row, rows, vectors)` of every panel; its sums begin at `first row * width`.
    fn panels(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (panel, rows) = (tiles().panel, self.rows);
        (0..rows).step_by(panel).map(move |row| {
            let count = panel.min(rows - row);
            (row, count, count.div_ceil(LANES))
        })
    }

    /// # Safety
    /// The result holds the block's columns of all rows, and nobody else touches them meanwhile.
    unsafe fn start(&mut self, out: First, initial: Initial<'_>) {
        for (row, count, vectors) in self.panels() {
            let sums = &mut self.sums[row * self.width..][..self.width * vectors * LANES];
            for (i, sums) in sums.chunks_exact_mut(vectors * LANES).enumerate() {
                match initial {
                    Initial::Zero => sums.fill(0.0),
                    Initial::Bias(b) => sums.fill(b[self.column + i]),
                    Initial::Old => {
                        for (j, sum) in sums[..count].iter_mut().enumerate() {
                            // SAFETY: the caller's promise.
                            *sum = unsafe { *out.at((row + j) * self.n + self.column + i) };
                        }
                    }
                }
            }
        }
    }

    /// Adds a term, slab by slab of `k`.
    fn add(&mut self, term: &Packed<'_>) {
        let (tiles, len) = (tiles(), term.len);
        if len == 0 {
            return;
        }
        let step = len.div_ceil(len.div_ceil(tiles.depth));
        let panels = self.rows.div_ceil(tiles.panel);
        let w = term.w[self.column * len..][..self.width * len].as_ptr();
        for k in (0..len).step_by(step) {
            let depth = step.min(len - k);
            // the next slab of these rows, or the first of the next block, is asked for meanwhile
            let rest = len - k - depth;
            let skip = if rest > 0 { depth } else { (self.next - self.column) * len - k };
            let lines = if rest > 0 || self.next < self.n { step.div_ceil(LINE) } else { 0 };
            for (panel, (row, _, vectors)) in self.panels().enumerate() {
                let wide = vectors * LANES;
                let x = term.x[row * len + k * wide..][..depth * wide].as_ptr();
                let sums = self.sums[row * self.width..][..self.width * wide].as_mut_ptr();
                let ahead = panel * lines / panels..(panel + 1) * lines / panels;
                for column in (0..self.width).step_by(tiles.rows) {
                    let count = tiles.rows.min(self.width - column);
                    let mut a = [std::ptr::null(); MAX_ROWS];
                    let mut c = [std::ptr::null_mut(); MAX_ROWS];
                    for i in 0..count {
                        // SAFETY: row `column + i` of the block's part of w, and of the panel's sums.
                        unsafe {
                            a[i] = w.add((column + i) * len + k);
                            c[i] = sums.add((column + i) * wide);
                        }
                        for line in ahead.clone() {
                            fetch(a[i].wrapping_add(skip + line * LINE));
                        }
                    }
                    let t = Tile {
                        a: &raw const a,
                        segments: 1,
                        len: depth,
                        step: 1,
                        b: x,
                        b_step: wide,
                        c,
                        bias: std::ptr::null(),
                        seed: Seed::Old,
                    };
                    // SAFETY: `depth` elements of each row of w and rows of the packed panel, as sliced above.
                    unsafe { tiles.get(count, vectors)(&t) };
                }
            }
        }
    }

    /// Writes the sums where they belong.
    ///
    /// # Safety
    /// As [`Self::start`].
    unsafe fn finish(&self, out: First) {
        let isa = Isa::current();
        for (row, count, vectors) in self.panels() {
            let wide = vectors * LANES;
            let sums = &self.sums[row * self.width..][..self.width * wide];
            for i in (0..self.width).step_by(LANES) {
                for j in (0..count).step_by(LANES) {
                    let (columns, rows) = (LANES.min(self.width - i), LANES.min(count - j));
                    let at = (row + j) * self.n + self.column + i;
                    let from = &sums[i * wide + j..];
                    if columns == LANES && rows == LANES {
                        // SAFETY: sixteen rows of sums from here on; the result by the caller's promise.
                        unsafe { transpose(isa, (from.as_ptr(), wide), (out.at(at), self.n), 1.0) };
                        continue;
                    }
                    for (j, i) in (0..rows).flat_map(|j| (0..columns).map(move |i| (j, i))) {
                        // SAFETY: the caller's promise.
                        unsafe { *out.at(at + j * self.n + i) = from[i * wide + j] };
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_transposed_products_are_those_of_the_triple_loop() {
        let value = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        for (m, n) in [(1, 500), (7, 500), (77, 131), (256, 49), (49, 640)] {
            let lens = [333, 3];
            let x = lens.map(|k| (0..m * k).map(value).collect::<Vec<f32>>());
            let w = lens.map(|k| (0..n * k).map(|i| value(i + 5)).collect::<Vec<f32>>());
            let bias: Vec<f32> = (0..n).map(value).collect();
            let old: Vec<f32> = (0..m * n).map(|i| value(i + 9)).collect();
            let terms = [0, 1].map(|t| TransposedTerm { left: &x[t], right: &w[t], len: lens[t] });
            let mut scratch = vec![f32::NAN; sum_transposed_scratch((m, n), lens)];
            for start in [Initial::Zero, Initial::Bias(&bias), Initial::Old] {
                let mut out = old.clone();
                sum_transposed(&mut out, (m, n), terms, start, &mut scratch);
                for (at, got) in out.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let mut want = match start {
                        Initial::Zero => 0.0,
                        Initial::Bias(b) => b[j],
                        Initial::Old => old[at],
                    };
                    for t in [0, 1] {
                        let k = lens[t];
                        let products = (0..k).map(|c| x[t][i * k + c] * w[t][j * k + c]);
                        want += products.sum::<f32>();
                    }
                    assert!((got - want).abs() < 5e-4, "[{m}, {n}] {i} {j}: {got} {want}");
                }
            }
        }
    }
}
