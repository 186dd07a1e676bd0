//! Shapes of test, gradient check and bench.

use super::Multiply;
use crate::kernels::case::Case;

/// Ragged, empty, and a layer scale of DINOv2-B.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 3] = [&[3, 5, 7], &[0, 4], &[1, 257, 768]];
    dims.map(|d| Case::normal("multiply", Multiply, &[d, d])).into()
}

/// The gates of DINOv2-g, the layer scales of DINOv2-L, eight pictures.
pub fn bench_cases() -> Vec<Case> {
    let dims: [&[usize]; 2] = [&[8, 257, 4096], &[8, 257, 1024]];
    dims.map(|d| Case::normal("multiply", Multiply, &[d, d])).into()
}
