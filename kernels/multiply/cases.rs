//! Shapes of test, gradient check and bench.

use super::{Multiply, MultiplyChannels};
use crate::kernels::case::Case;

fn channels(x: &[usize]) -> Case {
    let c = *x.last().unwrap_or(&1);
    Case::normal("multiply_channels", MultiplyChannels, &[x, &[c]])
}

/// Ragged, empty, the gates of a small SwiGLU; the mask of a feature, several parts of rows, a layer scale of DINOv2-B.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 3] = [&[3, 5, 7], &[0, 4], &[1, 257, 768]];
    let mut all: Vec<Case> = dims.map(|d| Case::normal("multiply", Multiply, &[d, d])).into();
    let dims: [&[usize]; 6] = [&[3, 5, 7], &[0, 4], &[6], &[2, 1024], &[2, 300, 9], &[1, 257, 768]];
    all.extend(dims.map(channels));
    all
}

/// The gates of DINOv2-g, the layer scales of DINOv2-L, eight pictures.
pub fn bench_cases() -> Vec<Case> {
    let gates: &[usize] = &[8, 257, 4096];
    vec![Case::normal("multiply", Multiply, &[gates, gates]), channels(&[8, 257, 1024])]
}
