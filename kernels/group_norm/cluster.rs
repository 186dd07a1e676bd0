//! Which shapes the blocks of a Hopper cluster hold in their shared memory, and how they are cut.

use super::problem::Problem;
use crate::kernels::columns::wide;

/// Blocks of a cluster; `kCluster` in the kernels.
pub(super) const CLUSTER: usize = 8;
/// Groups of one channel tile at most; `kTileGroups`.
const TILE_GROUPS: usize = 32;
/// Bytes of data of one block of the two sizes; `kSmallBytes`, `kLargeBytes`.
const SMALL_BYTES: usize = 88 << 10;
const LARGE_BYTES: usize = 184 << 10;
/// Elements from which clusters are used; three launches over less are no longer than one of
/// clusters.
const LEAST: usize = 1 << 15;
/// Blocks that fill an H200: tiles are widened as long as there are as many.
const FULL: usize = 128;

/// What differs between the passes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    /// Tensors that are held.
    pub tensors: usize,
    /// Threads of a block.
    pub threads: usize,
}

pub(super) const FORWARD: Pass = Pass { tensors: 1, threads: 512 };
pub(super) const BACKWARD: Pass = Pass { tensors: 2, threads: 256 };

/// A cut into clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Channel tiles; a cluster has one of them of one sample.
    pub tiles: usize,
    /// 16-byte vectors of one tile.
    pub tile_vecs: usize,
    /// Rows of one block.
    pub block_rows: usize,
    /// Which of the two sizes.
    pub large: bool,
}

impl Cut {
    /// The cut of `p`, or none where a block cannot hold its share: the smaller size where that is
    /// enough, and tiles as wide as leaves every multiprocessor a block.
    pub fn of(p: &Problem, pass: Pass) -> Option<Self> {
        let vec = wide(p.dtype);
        if !p.clusters || p.samples * p.rows * p.c < LEAST || !p.in_vectors(vec) {
            return None;
        }
        let width = p.c / p.groups;
        let unit = width / gcd(width, vec) * vec; // whole groups and whole vectors
        let (units, block_rows) = (p.c / unit, p.rows.div_ceil(CLUSTER));
        let sizes = [(SMALL_BYTES, false), (LARGE_BYTES, true)];
        sizes.into_iter().find_map(|(bytes, large)| {
            let fits = |k: &usize| {
                let tile_vecs = k * unit / vec;
                units.is_multiple_of(*k)
                    && tile_vecs <= pass.threads
                    && k * unit / width <= TILE_GROUPS
                    && pass.tensors * held_bytes(pass, block_rows, tile_vecs) <= bytes
            };
            let fills = |k: &usize| CLUSTER * p.samples * units / k >= FULL;
            let widest = (1..=units).rev().find(|k| fits(k) && fills(k));
            let k = widest.or_else(|| (1..=units).find(fits))?;
            Some(Self { tiles: units / k, tile_vecs: k * unit / vec, block_rows, large })
        })
    }
}

/// Bytes of one tensor in one block: every thread keeps as many vectors as the busiest.
fn held_bytes(pass: Pass, block_rows: usize, tile_vecs: usize) -> usize {
    block_rows.div_ceil(pass.threads / tile_vecs) * pass.threads * 16
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn problem(samples: usize, side: usize, c: usize) -> Problem {
        let (dtype, clusters) = (DType::Bf16, true);
        Problem { samples, rows: side * side, c, split: c, groups: 32, dtype, clusters }
    }

    #[test]
    fn sdxls_feature_maps_fit_and_the_decoders_do_not() {
        let cut = |p, pass| Cut::of(&p, pass);
        let (tiles, tile_vecs, block_rows) = (8, 5, 2048);
        let large = Some(Cut { tiles, tile_vecs, block_rows, large: true });
        assert_eq!(cut(problem(2, 128, 320), FORWARD), large);
        assert_eq!(cut(problem(2, 128, 320), BACKWARD), None);
        assert!(cut(problem(2, 64, 960), FORWARD).is_some());
        for pass in [FORWARD, BACKWARD] {
            for (side, c) in [(64, 640), (32, 1280), (32, 1920), (32, 2560)] {
                let cut = cut(problem(2, side, c), pass).unwrap();
                assert_eq!(cut.tiles * cut.tile_vecs * 8, c);
                assert!(cut.tiles * 2 * CLUSTER >= FULL, "{side} {c} {cut:?}");
            }
            assert_eq!(cut(problem(1, 1024, 128), pass), None);
        }
    }

    #[test]
    fn tiles_hold_whole_groups() {
        for c in (128..3000).step_by(32) {
            if let Some(cut) = Cut::of(&problem(1, 16, c), FORWARD) {
                assert_eq!((cut.tile_vecs * 8) % (c / 32), 0);
                assert!(cut.tile_vecs <= FORWARD.threads);
            }
        }
    }
}
