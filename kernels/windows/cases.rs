//! Shapes of test, gradient check and bench.

use super::{Partition, Unpartition};
use crate::kernels::case::Case;

type Shape = ([usize; 4], [usize; 2]);

/// Windows that divide the picture, that reach past it below, to the right or both ways, one larger than the picture,
/// single pixels, and no picture at all.
pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 7] = [
        ([2, 4, 6, 3], [2, 3]),
        ([2, 5, 7, 3], [3, 4]),
        ([1, 6, 5, 16], [2, 2]),
        ([1, 3, 2, 8], [4, 5]),
        ([1, 3, 4, 5], [1, 1]),
        ([0, 4, 4, 2], [2, 2]),
        ([1, 33, 30, 64], [14, 14]),
    ];
    shapes.into_iter().flat_map(both).collect()
}

/// SAM ViT-H and ViT-B at 1024 pixels, the decoder's upscaling, TinyViT's second stage.
pub fn bench_cases() -> Vec<Case> {
    let shapes: [Shape; 4] = [
        ([1, 64, 64, 1280], [14, 14]),
        ([1, 64, 64, 768], [14, 14]),
        ([1, 256, 256, 32], [2, 2]),
        ([1, 128, 128, 128], [7, 7]),
    ];
    shapes.into_iter().flat_map(both).collect()
}

fn both((picture, window): Shape) -> [Case; 2] {
    let [n, h, w, c] = picture;
    let [a, b] = window;
    let cut = [n * h.div_ceil(a) * w.div_ceil(b), a * b, c];
    let name = format!("partition {a}x{b}");
    [
        Case::normal(&name, Partition { window }, &[&picture]),
        Case::normal(&format!("un{name}"), Unpartition { window, size: [h, w] }, &[&cut]),
    ]
}
