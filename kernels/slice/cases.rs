//! Shapes of test, gradient check and bench.

use super::Slice;
use crate::kernels::case::Case;

/// Ragged parts, whole accesses, everything, nothing, no rows.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 6] = [
        (&[3, 7], 2, 3),
        (&[2, 5, 48], 16, 24),
        (&[9], 0, 9),
        (&[4, 6], 6, 0),
        (&[0, 4], 1, 2),
        (&[70, 1280], 256, 256),
    ];
    shapes
        .into_iter()
        .map(|(x, from, len)| Case::normal("slice", Slice { from, len }, &[x]))
        .collect()
}

/// A token of SAM's mask decoder for 64 prompts, and a third of a ViT-H's stacked projection.
pub fn bench_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 2] =
        [(&[64, 7 * 256], 256, 256), (&[1, 4096, 3840], 1280, 1280)];
    shapes
        .into_iter()
        .map(|(x, from, len)| Case::normal("slice", Slice { from, len }, &[x]))
        .collect()
}
