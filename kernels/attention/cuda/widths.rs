//! The Hopper kernels for any head width up to theirs, causal or not.

use super::{Problem, effort::Walk};
use crate::{device::cubin_table::Target, tensor::DType};

/// The kernels of one width, for bf16 and f16.
pub(super) struct Row {
    name: &'static str,
    /// Largest head dimension; a smaller one is padded with zeros.
    pub width: usize,
    symbols: [&'static str; 2],
}

macro_rules! row {
    ($pass:literal, $tile:literal, $width:literal) => {
        Row {
            name: concat!("sm90_", $tile),
            width: $width,
            symbols: [
                concat!("attention_", $pass, "_sm90_", $tile, "_bf16"),
                concat!("attention_", $pass, "_sm90_", $tile, "_f16"),
            ],
        }
    };
}

const FORWARD: [Row; 7] = [
    row!("forward", "w64_n80", 64),
    row!("forward", "w48", 48),
    row!("forward", "w64", 64),
    row!("forward", "w80", 80),
    row!("forward", "w128", 128),
    row!("forward", "w160", 160),
    row!("forward", "w512", 512),
];

const BACKWARD: [Row; 3] =
    [row!("backward", "w48", 48), row!("backward", "w64", 64), row!("backward", "w80", 80)];

impl Row {
    pub fn symbol(&self, p: &Problem) -> &'static str {
        self.symbols[usize::from(p.dtype == DType::F16)]
    }
}

/// The row of a forward variant, if it is one of these.
pub(super) fn forward(name: &str) -> Option<&'static Row> {
    FORWARD.iter().find(|r| r.name == name)
}

/// The row of a backward variant, if it is one of these.
pub(super) fn backward(name: &str) -> Option<&'static Row> {
    BACKWARD.iter().find(|r| r.name == name)
}

/// Whether wgmma, the type and the shape fit: rows of a tensor map are multiples of 16 bytes.
pub(super) fn forward_fits(p: &Problem, width: usize) -> bool {
    matches!(p.target, Target::Sm90a | Target::Host)
        && p.dtype.size_bytes() == 2
        && p.head_dim.is_multiple_of(8)
        && (1..=width).contains(&p.head_dim)
        && p.scale > 0.0
        && p.len_q > 0
}

/// The gradient of `v` alone keeps neither `v` nor the output, which the kernel reads.
pub(super) fn backward_fits(p: &Problem, width: usize) -> bool {
    forward_fits(p, width) && (p.wants[0] || p.wants[1])
}

/// `walk` of blocks of queries in steps of `keys`, without the blocks of keys that a causal mask hides from them: what is
/// left in the mean.
pub(super) fn seen_keys(p: &Problem, keys: usize, walk: Walk) -> Walk {
    if !p.causal || p.len_q == 0 {
        return walk;
    }
    let blocks = p.len_q.div_ceil(walk.rows);
    let seen = |block: usize| ((block + 1) * walk.rows).min(p.len_k).next_multiple_of(keys);
    Walk { over: (0..blocks).map(seen).sum::<usize>().div_ceil(blocks), ..walk }
}

/// `walk` of blocks of keys over `splits` parts of the queries, without the blocks of queries that see none of them.
pub(super) fn seen_queries(p: &Problem, splits: usize, walk: Walk) -> Walk {
    let (keys, queries) = (p.len_k.div_ceil(walk.rows), p.len_q.div_ceil(walk.rows));
    if !p.causal || keys * queries * splits == 0 {
        return walk;
    }
    let mut steps = 0;
    for split in 0..splits {
        let [begin, end] = [split, split + 1].map(|s| queries * s / splits);
        steps += (0..keys).map(|k| end - begin.max(k.min(end - 1))).sum::<usize>();
    }
    Walk { over: (steps * walk.rows).div_ceil(keys * splits), ..walk }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Engine;

    fn problem(len_q: usize, len_k: usize, causal: bool) -> Problem {
        Problem {
            target: Target::Sm90a,
            multiprocessors: 132,
            dtype: DType::Bf16,
            samples: 1,
            len_q,
            len_k,
            heads: 1,
            head_dim: 40,
            causal,
            scale: 1.0,
            wants: [true; 3],
        }
    }

    #[test]
    fn a_causal_walk_leaves_out_the_blocks_of_which_nothing_is_seen() {
        let over = |len_q, len_k, causal| {
            let p = problem(len_q, len_k, causal);
            let forward = Walk::forward(Engine::Wgmma, &p, 128, [128, 48]);
            let keys = Walk::keys(Engine::Wgmma, &p, 128, [1, 48]);
            (seen_keys(&p, 128, forward).over, seen_queries(&p, 1, keys).over)
        };
        assert_eq!(over(300, 300, false), (384, 384));
        assert_eq!(over(300, 300, true), (256, 256)); // 1 + 2 + 3 blocks, in the mean of three
        assert_eq!(over(300, 77, true), (128, 384));
        assert_eq!(over(77, 300, true), (128, 128));
    }

    #[test]
    fn widths_are_multiples_of_eight_up_to_the_kernels() {
        let fits =
            |head_dim, width| forward_fits(&Problem { head_dim, ..problem(1, 1, true) }, width);
        assert!(fits(8, 48) && fits(48, 48) && fits(160, 160));
        assert!(!fits(49, 64) && !fits(44, 48) && !fits(56, 48) && !fits(0, 48));
    }
}
