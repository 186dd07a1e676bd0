//! Shapes: 1x1, 3x3, ragged images and channels, strides, one-sided padding, large and even
//! kernels, empty.

use super::Conv2d;
use crate::kernels::case::Case;

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    // image, outputs and kernel, stride, pad
    type Shape = ([usize; 4], [usize; 3], usize, [usize; 4]);
    let shapes: [Shape; 13] = [
        ([1, 1, 1, 1], [1, 1, 1], 1, [0; 4]),
        ([2, 3, 4, 5], [6, 1, 1], 1, [0; 4]),
        ([1, 5, 6, 4], [3, 3, 3], 1, [1; 4]),
        ([2, 4, 4, 17], [18, 3, 3], 1, [1; 4]),
        ([1, 9, 7, 16], [16, 3, 3], 1, [1; 4]),
        ([2, 6, 5, 3], [4, 3, 3], 2, [1; 4]),
        ([2, 6, 8, 4], [5, 3, 3], 2, [0, 1, 0, 1]),
        ([1, 8, 8, 3], [5, 4, 4], 4, [0; 4]),
        ([1, 7, 6, 2], [3, 5, 2], 3, [2, 0, 1, 1]),
        ([1, 5, 5, 2], [3, 1, 1], 2, [0; 4]),
        ([1, 4, 5, 2], [2, 3, 3], 1, [0; 4]),
        ([0, 4, 4, 2], [3, 3, 3], 1, [1; 4]),
        ([1, 2, 2, 0], [2, 3, 3], 1, [1; 4]),
    ];
    let one = |(x, [o, kh, kw], stride, pad): ([usize; 4], [usize; 3], usize, [usize; 4]), bias| {
        let w = [o, kh, kw, x[3]];
        let dims: [&[usize]; 3] = [&x, &w, &[o]];
        let name = format!("conv2d stride {stride} pad {pad:?} bias {bias}");
        Case::normal(&name, Conv2d { stride, pad, bias }, &dims[..2 + usize::from(bias)])
    };
    shapes.into_iter().enumerate().map(|(i, s)| one(s, i % 2 == 0)).collect()
}
