//! The innermost loops: a tile of up to 8 rows and 48 columns stays in registers while `k` runs.
//!
//! 24 accumulators, 3 vectors of the right operand and one broadcast of the left fill the 32 AVX-512
//! registers. The left operand is read where it lies, by one pointer a row: no patches, no packing.

use super::lanes::{LANES, Lanes, Portable};
use std::sync::OnceLock;

/// Rows of a tile.
pub(super) const TILE_ROWS: usize = 8;
/// Columns of a full panel.
pub(super) const PANEL: usize = 3 * LANES;

/// What a tile starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seed {
    /// Zero.
    Zero,
    /// The content of the destination.
    Old,
    /// The same row of columns for every row, at `Tile::bias`.
    Bias,
}

/// One tile: `c[i][j] = seed + sum over segments s and k of a[s][i][k * step] b[s * len + k][j]`.
pub(super) struct Tile {
    /// `TILE_ROWS` pointers for each segment.
    pub a: *const [*const f32; TILE_ROWS],
    /// Segments of the sum (taps of a convolution).
    pub segments: usize,
    /// Elements of a segment.
    pub len: usize,
    /// Elements from one `k` to the next in `a`.
    pub step: usize,
    /// `segments * len` rows of 16, 32 or 48 columns.
    pub b: *const f32,
    /// A pointer a row.
    pub c: [*mut f32; TILE_ROWS],
    /// Read when `seed` is [`Seed::Bias`].
    pub bias: *const f32,
    /// Start of the sum.
    pub seed: Seed,
}

/// A compiled tile for a number of rows and vectors.
pub(super) type Run = unsafe fn(&Tile);
type Table = [[Run; 3]; TILE_ROWS];

/// # Safety
/// The instruction set of `V` is there; all pointers are valid for the extents in `t`.
#[inline(always)]
unsafe fn run<V: Lanes, const M: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller's promise, for this and every block below.
    let zero = unsafe { V::splat(0.0) };
    let mut acc = [[zero; NV]; M];
    for i in 0..M {
        for j in 0..NV {
            // SAFETY: row `i` of c, or the bias, holds NV vectors.
            unsafe {
                match t.seed {
                    Seed::Zero => {}
                    Seed::Old => acc[i][j] = V::load(t.c[i].add(j * LANES)),
                    Seed::Bias => acc[i][j] = V::load(t.bias.add(j * LANES)),
                }
            }
        }
    }
    let mut b = t.b;
    for s in 0..t.segments {
        // SAFETY: `segments` arrays of pointers.
        let a = unsafe { *t.a.add(s) };
        let mut at = 0;
        for _ in 0..t.len {
            // SAFETY: row k of b holds NV vectors; row i of a holds the element `k * step`.
            unsafe {
                let mut columns = [zero; NV];
                for j in 0..NV {
                    columns[j] = V::load(b.add(j * LANES));
                }
                for i in 0..M {
                    let left = V::splat(*a[i].add(at));
                    for j in 0..NV {
                        acc[i][j] = acc[i][j].add_product(left, columns[j]);
                    }
                }
                b = b.add(NV * LANES);
            }
            at += t.step;
        }
    }
    for i in 0..M {
        for j in 0..NV {
            // SAFETY: row `i` of c holds NV vectors.
            unsafe { acc[i][j].store(t.c[i].add(j * LANES)) };
        }
    }
}

macro_rules! table {
    ($run:ident) => {
        [
            [$run::<1, 1>, $run::<1, 2>, $run::<1, 3>],
            [$run::<2, 1>, $run::<2, 2>, $run::<2, 3>],
            [$run::<3, 1>, $run::<3, 2>, $run::<3, 3>],
            [$run::<4, 1>, $run::<4, 2>, $run::<4, 3>],
            [$run::<5, 1>, $run::<5, 2>, $run::<5, 3>],
            [$run::<6, 1>, $run::<6, 2>, $run::<6, 3>],
            [$run::<7, 1>, $run::<7, 2>, $run::<7, 3>],
            [$run::<8, 1>, $run::<8, 2>, $run::<8, 3>],
        ]
    };
}

unsafe fn portable<const M: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { run::<Portable, M, NV>(t) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Tile, run};
    use crate::device::cpu::lanes::x86::{Avx2, Avx512};

    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn avx512<const M: usize, const NV: usize>(t: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { run::<Avx512, M, NV>(t) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2<const M: usize, const NV: usize>(t: &Tile) {
        // SAFETY: the caller's promise.
        unsafe { run::<Avx2, M, NV>(t) }
    }
}

fn widest() -> Table {
    #[cfg(target_arch = "x86_64")]
    {
        use x86::{avx2, avx512};
        if is_x86_feature_detected!("avx512f") {
            return table!(avx512);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return table!(avx2);
        }
    }
    table!(portable)
}

/// The tile for `rows` rows (1 to 8) and `vectors` vectors (1 to 3) on this machine.
pub(super) fn tile(rows: usize, vectors: usize) -> Run {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(widest)[rows - 1][vectors - 1]
}
