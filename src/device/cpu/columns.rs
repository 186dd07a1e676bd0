//! Sums of products with large right operands: threads own columns of the result, and pack what they need.
//!
//! `out[i] = initial + sum over terms of left . right`. With many columns and few rows, packing the whole
//! right operand first would carry it through memory three times; here a slab of a group of its columns is
//! packed into the second-level cache and used at once by all rows.

use super::{
    pack::Unpacked,
    product::{Initial, Left, Target, product_packing, slab_len},
    share::{pieces, pool_size, share},
};

/// Most columns of a group, whole panels on every instruction set.
const GROUP: usize = 192;
/// Panels of 48 and of 16 columns end together here.
const PANELS: usize = 48;

/// A product: rows of a left operand, and a right operand before packing.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// Its rows are the rows of the result.
    pub left: Left<'a>,
    /// Its columns are the columns of the result.
    pub right: Unpacked<'a>,
}

/// Whether the columns of an `rows x n` result are shared out rather than its rows.
pub fn by_columns(rows: usize, n: usize) -> bool {
    n >= rows && n > PANELS
}

fn width(n: usize) -> usize {
    n.div_ceil(2 * pool_size()).next_multiple_of(PANELS).min(GROUP)
}

/// Scratch elements of [`sum_columns`] for `n` columns: a slab for every thread.
pub fn sum_columns_scratch(n: usize) -> usize {
    slab_len(width(n)).saturating_mul(pool_size())
}

/// `out [rows, n] = initial + sum over terms of left . right` on all threads.
///
/// # Panics
/// When operands do not fit: a bug of the calling operation.
pub fn sum_columns(
    out: &mut [f32],
    (rows, n): (usize, usize),
    terms: &[Term<'_>],
    initial: Initial<'_>,
    scratch: &mut [f32],
) {
    if rows == 0 || n == 0 {
        return;
    }
    assert!(rows * n <= out.len(), "sum_columns: output");
    let k: usize = terms.iter().map(|t| t.right.rows()).sum();
    let (width, flop) = (width(n), 2.0 * (rows * n) as f64 * k as f64);
    let piece = slab_len(width);
    let first = First::new(out);
    let groups = (0..n).step_by(width);
    share(groups, pieces(scratch, piece, flop), piece, |column, scratch| {
        let columns = width.min(n - column);
        let mut initial = match initial {
            Initial::Bias(b) => Initial::Bias(&b[column..]),
            other => other,
        };
        for term in terms {
            let right = term.right.columns(column, columns);
            let target = Target { stride: n, ..first.column(column) };
            // SAFETY: the assertion above bounded all rows; groups are disjoint columns of a unique borrow.
            unsafe { product_packing(target, term.left, &right, initial, (rows, scratch)) };
            initial = Initial::Old;
        }
    });
}

/// The first element of a result whose columns threads share out.
#[derive(Clone, Copy)]
pub(super) struct First(*mut f32);

// SAFETY: threads write disjoint columns of the result, which is uniquely borrowed meanwhile.
unsafe impl Sync for First {}

impl First {
    pub(super) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// There are so many elements.
    pub(super) unsafe fn at(self, element: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(element) }
    }

    fn column(self, column: usize) -> Target<'static> {
        // SAFETY: `column` is below the number of columns, and there is a row.
        let data = unsafe { self.at(column) };
        Target { data, stride: 0, rows: super::product::Rows::From(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::{Elements, Rows, Taps};

    #[test]
    fn shared_columns_hold_the_sum_of_all_terms() {
        let (m, n) = (7, 500);
        let value = |i: usize| ((i * 7919) % 101) as f32 / 50.0 - 1.0;
        let (a, b): (Vec<f32>, Vec<f32>) =
            ((0..m * 333).map(value).collect(), (0..m * 3).map(value).collect());
        let (u, v): (Vec<f32>, Vec<f32>) =
            ((0..333 * n).map(value).collect(), (0..3 * n).map(value).collect());
        let bias: Vec<f32> = (0..n).map(value).collect();
        let left = |data, len| Left { data, len, rows: Rows::From(0), taps: 1 };
        let right = |data, len, row_stride, column_stride| {
            let taps = Taps::All(1);
            Unpacked {
                data: Elements::F32(data),
                taps,
                tap_stride: 0,
                len,
                row_stride,
                n,
                column_stride,
                scale: 0.5,
            }
        };
        let terms = [
            Term { left: left(&a, 333), right: right(&u, 333, n, 1) },
            Term { left: left(&b, 3), right: right(&v, 3, 1, 3) },
        ];
        let mut out = vec![f32::NAN; m * n];
        let mut scratch = vec![f32::NAN; sum_columns_scratch(n)];
        sum_columns(&mut out, (m, n), &terms, Initial::Bias(&bias), &mut scratch);
        for (i, row) in out.chunks_exact(n).enumerate() {
            for (j, got) in row.iter().enumerate() {
                let first: f32 = (0..333).map(|t| a[i * 333 + t] * u[t * n + j]).sum();
                let second: f32 = (0..3).map(|t| b[i * 3 + t] * v[j * 3 + t]).sum();
                let want = bias[j] + 0.5 * (first + second);
                assert!((got - want).abs() < 5e-4, "{i} {j}: {got} {want}");
            }
        }
    }
}
