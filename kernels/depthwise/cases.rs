//! Shapes of test, gradient check and bench.

use super::Depthwise;
use crate::kernels::case::Case;

/// Picture, kernel, stride, padding.
type Shape = ([usize; 4], [usize; 2], usize, usize);

/// Single pixels, odd sizes, both strides, a kernel larger than the picture, no padding and a lot, more channels than a
/// block, several parts of the positions, no picture.
pub fn cases() -> Vec<Case> {
    let shapes: [Shape; 9] = [
        ([1, 1, 1, 3], [3, 3], 1, 1),
        ([2, 5, 4, 3], [3, 3], 1, 1),
        ([2, 6, 7, 8], [3, 3], 2, 1),
        ([1, 5, 6, 2], [2, 3], 1, 0),
        ([1, 2, 3, 4], [5, 5], 3, 4),
        ([1, 3, 3, 37], [3, 3], 1, 1),
        ([3, 12, 11, 72], [3, 3], 1, 1),
        ([0, 4, 4, 2], [3, 3], 1, 1),
        ([1, 64, 60, 16], [3, 3], 2, 1),
    ];
    shapes.into_iter().map(case).collect()
}

/// TinyViT at 1024 pixels: an inverted bottleneck, both kinds of merging, a local convolution.
pub fn bench_cases() -> Vec<Case> {
    let shapes: [Shape; 4] = [
        ([1, 256, 256, 256], [3, 3], 1, 1),
        ([1, 256, 256, 128], [3, 3], 2, 1),
        ([1, 128, 128, 128], [3, 3], 1, 1),
        ([1, 64, 64, 320], [3, 3], 1, 1),
    ];
    shapes.into_iter().map(case).collect()
}

fn case((x, [kh, kw], stride, pad): Shape) -> Case {
    let (name, c) = (format!("depthwise {kh}x{kw} stride {stride}"), x[3]);
    Case::normal(&name, Depthwise { stride, pad }, &[&x, &[kh, kw, c], &[c]])
}
