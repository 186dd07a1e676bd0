//! Shapes of test, gradient check and bench.

use super::{Bilinear, Nearest};
use crate::kernels::case::Case;

/// Twice, ragged up and down, batch > 1, and a U-Net's.
pub fn cases() -> Vec<Case> {
    let sizes: [(&[usize], usize, usize); 5] = [
        (&[2, 3, 4, 2], 6, 8),
        (&[1, 3, 4, 3], 5, 7),
        (&[1, 7, 5, 2], 3, 2),
        (&[0, 3, 4, 2], 6, 8),
        (&[1, 32, 32, 320], 64, 64),
    ];
    let mut all = vec![];
    for (dims, h, w) in sizes {
        all.push(Case::normal("resize_nearest", Nearest { h, w }, &[dims]));
        if dims[3] < 10 {
            all.push(Case::normal("resize_bilinear", Bilinear { h, w }, &[dims]));
        }
    }
    all
}

/// The two upsamplings of SDXL, two pictures, and a mask brought to the latents.
pub fn bench_cases() -> Vec<Case> {
    vec![
        Case::normal("resize_nearest", Nearest { h: 64, w: 64 }, &[&[2, 32, 32, 1280]]),
        Case::normal("resize_nearest", Nearest { h: 128, w: 128 }, &[&[2, 64, 64, 640]]),
        Case::normal("resize_bilinear", Bilinear { h: 128, w: 128 }, &[&[1, 1024, 1024, 1]]),
    ]
}
