//! Which of the compiled products a shape gets: the one with the least predicted time.
//!
//! The prediction counts tiles, waves and bytes of a Hopper chip; it is a constant of the source, so that a plan
//! is the same on every device. Not measured.

use super::{
    narrow,
    problem::{OnChip, Parts, Pass, Problem},
    tensor,
    tilings::{Family, SIMT, SM90_NARROW_32, TILINGS, Tiling, VARIANTS},
};
use crate::{
    device::{COUNTERS, Cuda, cubin_table::Target},
    error::Result,
    kernels::variant::{Slot, by_dtype, choose},
};

/// Multiprocessors of the chip that times are predicted for.
pub(super) const MULTIPROCESSORS: usize = 132;
/// Its clock under load, in MHz.
const CLOCK_MHZ: f64 = 1550.0;
/// Multiply-adds of a multiprocessor's tensor cores in a clock, 16-bit operands.
const MULTIPLIES: f64 = 2048.0;
/// A multiprocessor's share of the memory's 4.3 TB/s, in bytes a microsecond.
const SHARE_BYTES_US: f64 = 32_000.0;
/// What a multiprocessor gets from the second-level cache, 38 bytes a clock; bytes a microsecond.
pub(super) const PORT_BYTES_US: f64 = 59_000.0;
/// Until the first product of a Hopper kernel: tensor maps, barriers, the cluster's start, the first slab.
const HOPPER_START_US: f64 = 3.0;
/// The same of the others.
const START_US: f64 = 1.0;
/// A launch more, for adding partial sums or for another product.
pub(super) const LAUNCH_US: f64 = 2.0;
/// What the last range of a Hopper kernel waits for the others: a partial sum and a counter through L2.
pub(super) const WAIT_US: f64 = 1.5;
/// Partial sums stay in L2 more often than not; bytes a microsecond.
const PARTS_BYTES_US: f64 = 4.0e6;
/// The shortest range of a sum worth a block of its own.
const SHORTEST_RANGE: usize = 128;
const RANGES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

impl Tiling {
    /// Whether element type, extents and chip are right for it.
    pub fn applies(&self, on: &OnChip) -> bool {
        self.is_for(on.target) && self.serves(&on.problem)
    }

    /// Whether it is compiled for `target`.
    fn is_for(&self, target: Target) -> bool {
        match self.family {
            Family::Simt | Family::Sm80 => true, // compiled for every target
            Family::Sm90 | Family::Narrow => matches!(target, Target::Sm90a | Target::Host),
        }
    }

    /// Whether it is compiled for the chip of `cuda`.
    pub(super) fn on(&self, cuda: &Cuda) -> bool {
        self.is_for(cuda.target())
    }

    /// Whether element type and extents are right for it: rows of 16 bytes wherever it copies 16 bytes, no empty
    /// axis in a tensor map.
    pub fn serves(&self, p: &Problem) -> bool {
        let eights = |all: &[usize]| all.iter().all(|n| n.is_multiple_of(8));
        if self.symbol(p).is_empty() {
            return false;
        }
        let inner = match p.pass {
            Pass::Forward => eights(&[p.k, p.rank]) && p.n.is_multiple_of(2),
            Pass::Input => eights(&[p.k, p.rank, p.n]),
            Pass::Weight => eights(&[p.left_pitch, p.right_pitch]) && p.n.is_multiple_of(2),
        };
        let filled = p.m * p.n * p.k > 0;
        if p.weight_pitch > 0 && (self.family != Family::Sm90 || !p.weight_pitch.is_multiple_of(8))
        {
            return false;
        }
        match self.family {
            Family::Simt => true,
            Family::Sm80 => inner,
            Family::Sm90 => inner && filled && eights(&[p.n]),
            Family::Narrow => {
                let narrow = if p.pass == Pass::Weight { p.m.min(p.n) } else { p.n };
                inner && filled && p.rank == 0 && !p.residual && narrow <= self.cols
            }
        }
    }

    /// Predicted microseconds when the sum is cut into `ranges`.
    pub fn predicted_us(&self, p: &Problem, ranges: usize) -> f64 {
        // Partial sums are written and read once; Hopper's last range stays in registers.
        let hopper = self.family == Family::Sm90;
        let (stored, launch_us) = if hopper { (ranges - 1, WAIT_US) } else { (ranges, LAUNCH_US) };
        let parts = 8.0 * (stored * p.m * p.n) as f64;
        let join_us = launch_us + parts / PARTS_BYTES_US;
        if self.family == Family::Narrow {
            return self.narrow_us(p);
        }
        let (cluster, start_us) =
            if hopper { (tensor::CLUSTER, HOPPER_START_US) } else { (1, START_US) };
        let tiles = p.m.div_ceil(self.rows * cluster) * cluster * p.n.div_ceil(self.cols);
        let waves = (tiles * ranges).div_ceil(MULTIPROCESSORS * self.resident) as f64;
        let depth = p.k.div_ceil(ranges) + p.rank;
        let clocks = (self.rows * self.cols * self.resident * depth) as f64;
        let block_us = clocks / (MULTIPLIES * self.rate * CLOCK_MHZ) + self.edge_us;
        start_us + waves * block_us + if ranges == 1 { 0.0 } else { join_us }
    }

    /// Time of reading the wide operand.
    fn narrow_us(&self, p: &Problem) -> f64 {
        if p.pass == Pass::Weight {
            return grads_us(&[(Parts { one: *p, count: 1 }, self)]);
        }
        let blocks = p.m.div_ceil(self.rows) * narrow::CLUSTER;
        let waves = blocks.div_ceil(MULTIPROCESSORS * self.resident) as f64;
        let slab_bytes = (2 * tensor::SLAB * (self.rows + self.cols) * self.resident) as f64;
        let slabs = p.k.div_ceil(tensor::SLAB).div_ceil(narrow::CLUSTER) as f64;
        waves * (slabs * slab_bytes / SHARE_BYTES_US + self.edge_us)
    }

    /// The best number of ranges and its predicted time.
    fn best(&self, p: &Problem) -> (usize, f64) {
        let counters = p.m.div_ceil(self.rows * tensor::CLUSTER) * p.n.div_ceil(self.cols);
        let counters = counters.saturating_mul(tensor::CLUSTER * tensor::CONSUMERS);
        let whole = match self.family {
            Family::Narrow => true,
            Family::Sm90 => counters > COUNTERS,
            Family::Simt | Family::Sm80 => false,
        };
        let most = if whole { 1 } else { (p.k / SHORTEST_RANGE).max(1) };
        let all = RANGES.iter().filter(|r| **r <= most).map(|r| (*r, self.predicted_us(p, *r)));
        all.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((1, f64::INFINITY))
    }

    /// Ranges the sum of `p` is cut into.
    pub fn ranges(&self, p: &Problem) -> usize {
        self.best(p).0
    }

    /// Bytes of partial sums.
    fn parts_bytes(&self, p: &Problem) -> usize {
        let all = |ranges: usize| ranges.saturating_mul(p.m).saturating_mul(p.n).saturating_mul(4);
        match (self.family, self.ranges(p)) {
            (Family::Sm90, _) => tensor::scratch_bytes(p, self),
            (_, 1) => 0,
            (_, ranges) => all(ranges),
        }
    }

    /// The kernel of a pass and element type.
    pub fn symbol(&self, p: &Problem) -> &'static str {
        by_dtype(p.dtype, self.symbols[p.pass.row()])
    }
}

/// Scratch of `p` with any kernel that can compute it, so that a forced one finds room too.
pub(super) fn scratch_bytes(p: &Problem) -> usize {
    let able = TILINGS.iter().filter(|t| t.serves(p));
    able.map(|t| t.parts_bytes(p)).max().unwrap_or(0)
}

const SLOTS: [&str; 3] = ["linear.forward", "linear.input", "linear.weight"];

/// What there is to choose from: any tiling in every pass.
pub(super) fn slots() -> Vec<Slot> {
    SLOTS.iter().map(|slot| Slot::of(slot, VARIANTS)).collect()
}

/// Predicted microseconds of a launch of weight gradients with a narrow side each: of reading the wide operands, through the
/// memory and through the ports of the multiprocessors that have a block.
pub(super) fn grads_us(sides: &[(Parts, &Tiling)]) -> f64 {
    let (mut blocks, mut bytes) = (0, 0);
    for (Parts { one: p, count }, t) in sides {
        let tiles = count * p.m.max(p.n).div_ceil(narrow::WIDE_COLS);
        let deep = p.k.next_multiple_of(tensor::SLAB * narrow::GRAD_CLUSTER);
        blocks += tiles * narrow::GRAD_CLUSTER;
        bytes += 2 * tiles * deep * (narrow::WIDE_COLS + t.cols);
    }
    let most = blocks.div_ceil(MULTIPROCESSORS) as f64 / blocks.max(1) as f64;
    let share = (1.0 / (MULTIPROCESSORS as f64 * SHARE_BYTES_US)).max(most / PORT_BYTES_US);
    let waves = blocks.div_ceil(MULTIPROCESSORS * narrow::GRAD_RESIDENT) as f64;
    bytes as f64 * share + waves * SM90_NARROW_32.edge_us
}

/// The kernel that `--variant` forces on `p`, where it applies.
fn forced(cuda: &Cuda, p: &Problem) -> Result<Option<&'static Tiling>> {
    let slot = match p.pass {
        Pass::Forward => SLOTS[0],
        Pass::Input => SLOTS[1],
        Pass::Weight => SLOTS[2],
    };
    let first = choose(cuda, slot, VARIANTS, &OnChip { problem: *p, target: cuda.target() })?.name;
    let forced = cuda.forced_variant(slot).is_some_and(|name| name == first);
    Ok(forced.then(|| TILINGS.into_iter().find(|t| t.name == first).unwrap_or(&SIMT)))
}

/// The kernel for `p`: the forced one where it applies, else the one with the least predicted time.
///
/// # Errors
/// Those of [`choose`].
pub(super) fn tiling(cuda: &Cuda, p: &Problem) -> Result<&'static Tiling> {
    let on = OnChip { problem: *p, target: cuda.target() };
    Ok(forced(cuda, p)?.unwrap_or_else(|| fastest(p, |t| t.applies(&on))))
}

/// The kernel with a narrow side for `p`: the forced one, else the one with the fewest columns, whatever its time.
///
/// # Errors
/// As [`tiling`].
pub(super) fn narrow_tiling(cuda: &Cuda, p: &Problem) -> Result<Option<&'static Tiling>> {
    let on = OnChip { problem: *p, target: cuda.target() };
    let narrow = |t: &&Tiling| t.family == Family::Narrow;
    Ok(match forced(cuda, p)? {
        Some(t) => Some(t).filter(narrow),
        None => TILINGS.into_iter().filter(narrow).find(|t| t.applies(&on)),
    })
}

/// Whether no kernel is forced on `p`.
///
/// # Errors
/// As [`tiling`].
pub(super) fn is_free(cuda: &Cuda, p: &Problem) -> Result<bool> {
    Ok(forced(cuda, p)?.is_none())
}

/// Kernels for `p` that can make an adapter's product before their tiles.
pub(super) fn adapted_tilings(p: &Problem) -> impl Iterator<Item = &'static Tiling> {
    TILINGS.into_iter().filter(|t| t.serves(p) && !t.adapted_symbol(p).is_empty())
}

/// Whether a Hopper kernel computes `p` on `target`.
pub(super) fn on_hopper(p: &Problem, target: Target) -> bool {
    let able = |t: &Tiling| t.family == Family::Sm90 && t.is_for(target) && t.serves(p);
    TILINGS.into_iter().any(able)
}

fn fastest(p: &Problem, able: impl Fn(&Tiling) -> bool) -> &'static Tiling {
    let able = TILINGS.into_iter().filter(|t| able(t));
    able.min_by(|a, b| a.best(p).1.total_cmp(&b.best(p).1)).unwrap_or(&SIMT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernels::linear::tilings::{SM80_64, SM90_PING},
        tensor::DType,
    };

    fn problem(dtype: DType, m: usize, n: usize, k: usize) -> Problem {
        Problem::dense(Pass::Forward, dtype, [m, n, k], 0)
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
        assert!(able(&SM90_PING, DType::F16, 1, 8, 8) && !able(&SM90_PING, DType::F16, 1, 4, 8));
        assert!(!able(&SM90_PING, DType::F16, 0, 8, 8));
        assert!(able(&SM90_NARROW_32, DType::F16, 9, 32, 8));
        assert!(!able(&SM90_NARROW_32, DType::F16, 9, 40, 8));
    }

    #[test]
    fn large_layers_go_to_large_tiles_few_tiles_are_cut_and_ranks_are_narrow() {
        let of = |m, n, k| {
            let p = problem(DType::Bf16, m, n, k);
            let t = fastest(&p, |t| t.serves(&p));
            (t.name, t.ranges(&p))
        };
        assert_eq!(of(16384, 640, 2560), ("sm90_256x160", 1));
        assert_eq!(of(4096, 10240, 1280).1, 1);
        assert!(of(1024, 1280, 5120).1 > 1);
        assert_eq!(of(4096, 32, 1280).0, "sm90_skinny32");
        assert_eq!(of(8, 64, 64).0, "sm80_64");
    }
}
