//! Shapes of test, gradient check and bench.

use super::Concat;
use crate::kernels::case::Case;

/// Ragged, empty parts, and a U-Net's skip connection.
pub fn cases() -> Vec<Case> {
    let pairs: [[&[usize]; 2]; 4] = [
        [&[2, 3, 5], &[2, 3, 2]],
        [&[4, 3], &[4, 0]],
        [&[0, 3], &[0, 2]],
        [&[1, 32, 32, 640], &[1, 32, 32, 320]],
    ];
    pairs.map(|p| Case::normal("concat", Concat, &p)).into()
}

/// The skip connections of SDXL's three levels, two pictures.
pub fn bench_cases() -> Vec<Case> {
    let pairs: [[&[usize]; 2]; 3] = [
        [&[2, 32, 32, 1280], &[2, 32, 32, 1280]],
        [&[2, 64, 64, 640], &[2, 64, 64, 640]],
        [&[2, 128, 128, 320], &[2, 128, 128, 320]],
    ];
    pairs.map(|p| Case::normal("concat", Concat, &p)).into()
}
