//! Shapes of test, gradient check and bench.

use super::Geglu;
use crate::kernels::case::Case;

/// Ragged, empty, and a transformer block's.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 4] = [&[2, 3, 10], &[5, 2], &[0, 8], &[1, 256, 2560]];
    dims.map(|d| Case::normal("geglu", Geglu, &[d])).into()
}

/// Both levels of transformer blocks of SDXL, two pictures.
pub fn bench_cases() -> Vec<Case> {
    let dims: [&[usize]; 2] = [&[2, 4096, 5120], &[2, 1024, 10240]];
    dims.map(|d| Case::normal("geglu", Geglu, &[d])).into()
}
