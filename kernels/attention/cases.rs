//! Shapes of test, gradient check and bench.

use super::Attention;
use crate::kernels::case::Case;

/// One key, odd sizes, masks with fewer and more keys than queries, several blocks of both, and the
/// self and cross attention of an SDXL block.
pub fn cases() -> Vec<Case> {
    let shapes: [([usize; 4], usize, bool); 9] = [
        ([1, 1, 1, 3], 1, false),
        ([2, 5, 3, 4], 7, false),
        ([1, 6, 2, 5], 6, true),
        ([1, 3, 1, 4], 7, true),
        ([2, 19, 1, 2], 4, true),
        ([1, 150, 1, 4], 530, false),
        ([1, 300, 1, 3], 300, true),
        ([1, 1024, 10, 64], 77, false),
        ([1, 1024, 10, 64], 1024, false),
    ];
    let case = |(q, lk, causal): ([usize; 4], usize, bool)| {
        let op = Attention { causal, scale: 1.0 / (q[3] as f32).sqrt() };
        let k = [q[0], lk, q[2], q[3]];
        let name = if causal { "attention causal" } else { "attention" };
        Case::normal(name, op, &[&q, &k, &k])
    };
    shapes.into_iter().map(case).collect()
}
