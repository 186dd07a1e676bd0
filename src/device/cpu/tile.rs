//! The innermost loops: a tile of a few rows and columns stays in registers while `k` runs.
//!
//! Every instruction set has its own tile and panel, as many registers as it has (`lanes.rs`): 8 x 48
//! with AVX-512, 6 x 16 with AVX2 and Neon. The left operand is read where it lies, by one pointer a
//! row: no patches, no packing.

use super::{
    isa::Isa,
    lanes::{LANES, Lanes, Portable},
};
use std::sync::OnceLock;

/// Most rows of a tile, on any instruction set.
pub(super) const MAX_ROWS: usize = 8;
/// Most vectors of a panel.
const MAX_VECTORS: usize = 3;
/// Most columns of a panel.
pub(super) const MAX_PANEL: usize = MAX_VECTORS * LANES;
/// Most elements of `k` between two visits of a tile.
pub(super) const MAX_DEPTH: usize = 256;

/// Elements of a cache line.
pub(super) const LINE: usize = 16;

/// Asks for the cache line of an address that is needed later, where there is such an instruction.
#[inline(always)]
pub(super) fn fetch(from: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: every processor of this architecture has it, and no address makes it fail.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

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
    /// `MAX_ROWS` pointers for each segment.
    pub a: *const [*const f32; MAX_ROWS],
    /// Segments of the sum (taps of a convolution).
    pub segments: usize,
    /// Elements of a segment.
    pub len: usize,
    /// Elements from one `k` to the next in `a`.
    pub step: usize,
    /// `segments * len` rows of 16, 32 or 48 columns.
    pub b: *const f32,
    /// Elements from one of these rows to the next: 16, 32 or 48 where they are packed.
    pub b_step: usize,
    /// A pointer a row.
    pub c: [*mut f32; MAX_ROWS],
    /// Read when `seed` is [`Seed::Bias`].
    pub bias: *const f32,
    /// Start of the sum.
    pub seed: Seed,
}

/// A compiled tile for a number of rows and vectors.
pub(super) type Run = unsafe fn(&Tile);

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
                b = b.add(t.b_step);
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

/// The compiled tiles of one instruction set and the shape of its packed operands.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// Rows of a full tile.
    pub rows: usize,
    /// Columns of a full panel.
    pub panel: usize,
    /// Elements of `k` between two visits of a tile: so many rows of a panel stay in the first-level cache.
    pub depth: usize,
    table: [[Run; MAX_VECTORS]; MAX_ROWS],
}

impl Tiles {
    /// The tile for `rows` rows and `vectors` vectors.
    pub fn get(&self, rows: usize, vectors: usize) -> Run {
        self.table[rows - 1][vectors - 1]
    }

    fn new<V: Lanes>(table: [[Run; MAX_VECTORS]; MAX_ROWS]) -> Self {
        // 30 KiB of a wide panel; a narrow one shares the cache with longer rows of the left operand
        let depth = if V::VECTORS == MAX_VECTORS { 160 } else { MAX_DEPTH };
        Self { rows: V::ROWS, panel: V::VECTORS * LANES, depth, table }
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

#[cfg(target_arch = "aarch64")]
unsafe fn neon<const M: usize, const NV: usize>(t: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { run::<super::lanes::arm::Neon, M, NV>(t) }
}

/// The tiles of an instruction set; those for any processor where it is not of this architecture.
fn of(isa: Isa) -> Tiles {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Amx | Isa::Avx512Bf16 | Isa::Avx512 => Tiles::new::<super::lanes::x86::Avx512>({
            use x86::avx512;
            table!(avx512)
        }),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => Tiles::new::<super::lanes::x86::Avx2>({
            use x86::avx2;
            table!(avx2)
        }),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => Tiles::new::<super::lanes::arm::Neon>(table!(neon)),
        _ => Tiles::new::<Portable>(table!(portable)),
    }
}

/// The tiles of the instruction set in use.
pub(super) fn tiles() -> &'static Tiles {
    static TILES: OnceLock<Tiles> = OnceLock::new();
    TILES.get_or_init(|| of(Isa::current()))
}
