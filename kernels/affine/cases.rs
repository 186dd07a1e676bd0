//! Shapes of test, gradient check and bench.

use super::Affine;
use crate::kernels::case::Case;

/// Ragged, a loss, empty, and a residual sum in the middle of a U-Net.
pub fn cases() -> Vec<Case> {
    let of =
        |scale, shift, dims: &[usize]| Case::normal("affine", Affine { scale, shift }, &[dims]);
    vec![
        of(2.0, -1.0, &[2, 3, 5]),
        of(-0.5, 0.0, &[7]),
        of(-0.001, 0.0, &[1]), // a weighted loss
        of(1.0, 1.0, &[0, 4]),
        of(0.5, 0.0, &[1, 32, 32, 1280]),
    ]
}

/// A map of the U-Net's first level.
pub fn bench_cases() -> Vec<Case> {
    vec![Case::normal("affine", Affine { scale: 0.5, shift: 0.0 }, &[&[2, 128, 128, 320]])]
}
