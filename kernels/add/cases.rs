//! Shapes of test, gradient check and bench.

use super::{Add, AddChannels};
use crate::kernels::case::Case;

/// Ragged, two losses, empty, batch > 1, and a U-Net's.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 4] = [&[3, 5, 7], &[1], &[0, 4], &[1, 64, 64, 320]];
    let mut all: Vec<Case> = dims.map(|d| Case::normal("add", Add, &[d, d])).into();
    let pairs: [[&[usize]; 2]; 3] =
        [[&[2, 3, 2, 5], &[2, 5]], [&[0, 4, 3], &[0, 3]], [&[1, 64, 64, 320], &[1, 320]]];
    all.extend(pairs.map(|p| Case::normal("add_channels", AddChannels, &p)));
    all
}

/// The residual sums of SDXL's three levels, two pictures.
pub fn bench_cases() -> Vec<Case> {
    let maps: [&[usize]; 3] = [&[2, 128, 128, 320], &[2, 64, 64, 640], &[2, 32, 32, 1280]];
    let sums = |d: &[usize]| {
        let e = [d[0], d[3]];
        [Case::normal("add", Add, &[d, d]), Case::normal("add_channels", AddChannels, &[d, &e])]
    };
    maps.into_iter().flat_map(sums).collect()
}
