//! The compiled products, and which of them a shape gets: the one with the least predicted time.
//!
//! The prediction counts tiles, waves and bytes of a Hopper chip; it is a constant of the source, so that a plan
//! is the same on every device. Not measured.

use super::product::{Pass, Problem};
use crate::{
    device::Cuda,
    error::Result,
    kernels::variant::{Variant, choose},
    tensor::DType,
};

/// Which instructions a kernel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Ordinary multipliers.
    Simt,
    /// `mma.sync` and `cp.async`.
    Sm80,
}

/// One kernel of every pass and element type.
#[derive(Debug)]
pub(super) struct Tiling {
    /// The variant's name.
    pub name: &'static str,
    /// Its instructions.
    pub family: Family,
    /// Rows of a tile.
    rows: usize,
    /// Columns of a tile.
    cols: usize,
    /// Blocks a multiprocessor holds.
    resident: usize,
    /// Share of the tensor cores' 2048 multiply-adds a clock that the main loop is assumed to reach.
    rate: f64,
    /// Symbols by pass, then element type; empty where there is none.
    symbols: [[&'static str; 3]; 3],
}

const SIMT: Tiling = Tiling {
    name: "simt",
    family: Family::Simt,
    rows: 64,
    cols: 64,
    resident: 6,
    rate: 0.04,
    symbols: [
        ["linear_forward_simt_f32", "linear_forward_simt_bf16", "linear_forward_simt_f16"],
        ["linear_input_simt_f32", "linear_input_simt_bf16", "linear_input_simt_f16"],
        ["linear_weight_simt_f32", "linear_weight_simt_bf16", "linear_weight_simt_f16"],
    ],
};
const SM80_128: Tiling = Tiling {
    name: "sm80_128",
    family: Family::Sm80,
    rows: 128,
    cols: 128,
    resident: 2,
    rate: 0.45,
    symbols: [
        ["", "linear_forward_sm80_128_bf16", "linear_forward_sm80_128_f16"],
        ["", "linear_input_sm80_128_bf16", "linear_input_sm80_128_f16"],
        ["", "linear_weight_sm80_128_bf16", "linear_weight_sm80_128_f16"],
    ],
};
const SM80_64: Tiling = Tiling {
    name: "sm80_64",
    family: Family::Sm80,
    rows: 64,
    cols: 64,
    resident: 4,
    rate: 0.3,
    symbols: [
        ["", "linear_forward_sm80_64_bf16", "linear_forward_sm80_64_f16"],
        ["", "linear_input_sm80_64_bf16", "linear_input_sm80_64_f16"],
        ["", "linear_weight_sm80_64_bf16", "linear_weight_sm80_64_f16"],
    ],
};

/// In the order of [`VARIANTS`].
pub(super) const TILINGS: [&Tiling; 3] = [&SM80_128, &SM80_64, &SIMT];
/// The rows of `--variant linear=...`; the generic one last.
pub(crate) const VARIANTS: &[Variant<Problem>] = &[
    Variant { name: SM80_128.name, applies: |p| SM80_128.serves(p) },
    Variant { name: SM80_64.name, applies: |p| SM80_64.serves(p) },
    Variant { name: SIMT.name, applies: |p| SIMT.serves(p) },
];

/// Multiprocessors of the chip that times are predicted for.
const MULTIPROCESSORS: usize = 132;
/// Its clock under load, in MHz.
const CLOCK_MHZ: f64 = 1550.0;
/// Multiply-adds of a multiprocessor's tensor cores in a clock, 16-bit operands.
const MULTIPLIES: f64 = 2048.0;
/// What a tile costs besides its main loop: filling the pipeline, writing the results.
const EDGE_US: f64 = 1.5;
/// A launch more, for adding partial sums.
const LAUNCH_US: f64 = 2.5;
/// Partial sums stay in L2 more often than not; bytes a microsecond.
const PARTS_BYTES_US: f64 = 3.0e6;
/// The shortest range of a sum worth a block of its own.
const SHORTEST_RANGE: usize = 128;
const RANGES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

impl Tiling {
    /// Whether element type and extents are right for it: rows of 16 bytes wherever it copies 16 bytes.
    fn serves(&self, p: &Problem) -> bool {
        let eights = |all: &[usize]| all.iter().all(|n| n.is_multiple_of(8));
        match self.family {
            Family::Simt => true,
            Family::Sm80 => {
                p.dtype != DType::F32
                    && match p.pass {
                        Pass::Forward => eights(&[p.k, p.rank]) && p.n.is_multiple_of(2),
                        Pass::Input => eights(&[p.k, p.rank, p.n]),
                        Pass::Weight => eights(&[p.m, p.n]),
                    }
            }
        }
    }

    /// Predicted microseconds when the sum is cut into `ranges`.
    fn predicted_us(&self, p: &Problem, ranges: usize) -> f64 {
        let tiles = p.m.div_ceil(self.rows) * p.n.div_ceil(self.cols);
        let waves = (tiles * ranges).div_ceil(MULTIPROCESSORS * self.resident) as f64;
        let depth = p.k.div_ceil(ranges) + p.rank;
        let clocks = (self.rows * self.cols * self.resident * depth) as f64;
        let block_us = clocks / (MULTIPLIES * self.rate * CLOCK_MHZ) + EDGE_US;
        let parts = 8.0 * (ranges * p.m * p.n) as f64; // written and read once
        let join_us = if ranges == 1 { 0.0 } else { LAUNCH_US + parts / PARTS_BYTES_US };
        waves * block_us + join_us
    }

    /// The best number of ranges and its predicted time.
    fn best(&self, p: &Problem) -> (usize, f64) {
        let most = (p.k / SHORTEST_RANGE).max(1);
        let all = RANGES.iter().filter(|r| **r <= most).map(|r| (*r, self.predicted_us(p, *r)));
        all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((1, f64::INFINITY))
    }

    /// Ranges the sum of `p` is cut into.
    pub fn ranges(&self, p: &Problem) -> usize {
        self.best(p).0
    }

    /// Bytes of partial sums.
    fn parts_bytes(&self, p: &Problem) -> usize {
        match self.ranges(p) {
            1 => 0,
            ranges => ranges.saturating_mul(p.m).saturating_mul(p.n).saturating_mul(4),
        }
    }

    /// The kernel of a pass and element type.
    pub fn symbol(&self, p: &Problem) -> &'static str {
        let pass = match p.pass {
            Pass::Forward => 0,
            Pass::Input => 1,
            Pass::Weight => 2,
        };
        crate::kernels::variant::by_dtype(p.dtype, self.symbols[pass])
    }
}

/// Scratch of `p` with any kernel that can compute it, so that a forced one finds room too.
pub(super) fn scratch_bytes(p: &Problem) -> usize {
    let able = TILINGS.iter().filter(|t| t.serves(p));
    able.map(|t| t.parts_bytes(p)).max().unwrap_or(0)
}

/// The kernel for `p`: the forced one where it applies, else the one with the least predicted time.
///
/// # Errors
/// Those of [`choose`].
pub(super) fn tiling(cuda: &Cuda, p: &Problem) -> Result<&'static Tiling> {
    let slot = match p.pass {
        Pass::Forward => "linear.forward",
        Pass::Input => "linear.input",
        Pass::Weight => "linear.weight",
    };
    let first = choose(cuda, slot, VARIANTS, p)?;
    if cuda.forced_variant(slot).is_some_and(|name| name == first.name) {
        return Ok(TILINGS.into_iter().find(|t| t.name == first.name).unwrap_or(&SIMT));
    }
    let able = TILINGS.into_iter().filter(|t| t.serves(p));
    Ok(able.min_by(|a, b| a.best(p).1.total_cmp(&b.best(p).1)).unwrap_or(&SIMT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(dtype: DType, m: usize, n: usize, k: usize) -> Problem {
        Problem { pass: Pass::Forward, dtype, m, n, k, rank: 0 }
    }

    #[test]
    fn names_of_variants_and_tilings_agree() {
        for (v, t) in VARIANTS.iter().zip(TILINGS) {
            assert_eq!(v.name, t.name);
        }
        assert_eq!(VARIANTS.len(), TILINGS.len());
    }

    #[test]
    fn the_sum_is_cut_only_where_tiles_are_few_and_the_sum_is_long() {
        let ranges = |m, n, k| SIMT.ranges(&problem(DType::F32, m, n, k));
        assert_eq!(ranges(4096, 640, 640), 1);
        assert!(ranges(77, 640, 2048) > 4);
        assert_eq!(ranges(1, 1, 127), 1);
        assert_eq!(scratch_bytes(&problem(DType::F32, 0, 5, 1 << 20)), 0);
    }

    #[test]
    fn odd_extents_and_f32_fall_to_the_generic_kernel() {
        let able = |t: &Tiling, dtype, m, n, k| t.serves(&problem(dtype, m, n, k));
        assert!(able(&SM80_64, DType::Bf16, 3, 6, 8));
        assert!(!able(&SM80_64, DType::Bf16, 3, 5, 8));
        assert!(!able(&SM80_64, DType::Bf16, 3, 6, 12));
        assert!(!able(&SM80_64, DType::F32, 8, 8, 8));
        assert!(able(&SIMT, DType::F16, 1, 1, 1));
    }
}
