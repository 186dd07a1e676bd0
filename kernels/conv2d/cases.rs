//! Shapes: 1x1, 3x3, ragged images and channels, strides, one-sided padding, large and even
//! kernels, upsampling, empty; and SDXL's own for measurements.

use super::{Conv2d, ShiftedConv2d};
use crate::{kernels::case::Case, op::Op};

/// One call: image, then outputs and kernel.
fn case(x: [usize; 4], [o, kh, kw]: [usize; 3], op: Conv2d) -> Case {
    let w = [o, kh, kw, x[3]];
    let dims: [&[usize]; 3] = [&x, &w, &[o]];
    let name = format!("conv2d {} bias {}", op.detail(), op.bias);
    Case::normal(&name, op, &dims[..2 + usize::from(op.bias)])
}

/// The same with a shift of `images` pictures.
fn shifted(x: [usize; 4], [o, kh, kw]: [usize; 3], op: Conv2d) -> Case {
    let w = [o, kh, kw, x[3]];
    let dims: [&[usize]; 4] = [&x, &w, &[o], &[x[0], o]];
    let kept = |i: &usize| op.bias || *i != 2;
    let dims: Vec<&[usize]> = (0..dims.len()).filter(kept).map(|i| dims[i]).collect();
    let op = ShiftedConv2d::from(op);
    let name = format!("conv2d {} bias {}", op.detail(), op.bias);
    Case::normal(&name, op, &dims)
}

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    // image, outputs and kernel, stride, pad
    type Shape = ([usize; 4], [usize; 3], usize, [usize; 4]);
    let shapes: [Shape; 25] = [
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
        ([3, 7, 11, 72], [80, 3, 3], 1, [1; 4]), // past one tile along every axis, C % 8 == 0
        ([1, 13, 9, 13], [70, 3, 3], 2, [1, 1, 0, 1]),
        ([2, 17, 16, 8], [8, 3, 3], 1, [1; 4]), // several ranges of pixels
        ([2, 9, 9, 24], [8, 3, 3], 2, [0, 1, 0, 1]),
        ([1, 3, 2, 2], [2, 2, 2], 5, [3, 3, 4, 2]), // classes of pixels that no tap meets
        ([1, 9, 7, 64], [72, 3, 3], 1, [1; 4]),     // C % 64 == 0: whole slabs of Hopper's
        ([1, 7, 9, 72], [64, 3, 3], 1, [1; 4]),     // O % 64 == 0: of its data gradient
        ([2, 6, 10, 128], [192, 3, 3], 1, [1; 4]),  // past one column tile, joined ranges
        ([1, 33, 17, 64], [64, 1, 1], 1, [0; 4]),   // an odd number of pixel tiles
        ([1, 12, 10, 64], [64, 3, 3], 2, [1; 4]),
        ([2, 8, 6, 64], [128, 3, 3], 2, [0, 1, 0, 1]),
        ([1, 9, 8, 64], [64, 3, 3], 2, [1; 4]), // an odd image: no parity planes
    ];
    let plain = shapes.into_iter().enumerate().map(|(i, (x, w, stride, pad))| {
        case(x, w, Conv2d { stride, pad, bias: i % 2 == 0, upsample: false })
    });
    let enlarged: [([usize; 4], [usize; 3], [usize; 4]); 7] = [
        ([1, 1, 1, 1], [1, 3, 3], [1; 4]),
        ([2, 3, 5, 7], [6, 3, 3], [1; 4]),
        ([1, 6, 5, 16], [24, 3, 3], [1; 4]),
        ([1, 2, 3, 3], [2, 2, 5], [0, 1, 3, 1]),
        ([2, 3, 2, 8], [8, 1, 1], [0; 4]),
        ([2, 5, 6, 64], [64, 3, 3], [1; 4]),
        ([1, 3, 4, 64], [128, 2, 2], [1, 0, 0, 1]),
    ];
    let enlarged = enlarged.into_iter().enumerate().map(|(i, (x, w, pad))| {
        case(x, w, Conv2d { stride: 1, pad, bias: i % 2 == 0, upsample: true })
    });
    let plain_one = Conv2d::same(3, true);
    let shifts = [
        ([1, 1, 1, 1], [1, 1, 1], Conv2d::same(1, false)),
        ([3, 4, 5, 3], [6, 3, 3], plain_one),
        ([0, 4, 4, 2], [3, 3, 3], plain_one),
        ([3, 7, 11, 72], [80, 3, 3], Conv2d::same(3, false)), // tiles over several images
        ([2, 9, 9, 24], [8, 3, 3], Conv2d { stride: 2, pad: [0, 1, 0, 1], ..plain_one }),
        ([3, 6, 10, 128], [192, 3, 3], plain_one), // joined ranges, an odd number of images for clusters
        ([2, 33, 17, 64], [64, 1, 1], Conv2d::same(1, true)),
        ([2, 5, 6, 64], [64, 3, 3], Conv2d { upsample: true, ..plain_one }),
        ([2, 12, 10, 64], [72, 3, 3], Conv2d { stride: 2, ..plain_one }),
    ];
    let shifts = shifts.into_iter().map(|(x, w, op)| shifted(x, w, op));
    plain.chain(enlarged).chain(shifts).collect()
}

/// The convolutions of SDXL: the U-Net at 1024 x 1024 for two pictures, the VAE's widest for one.
pub fn bench_cases() -> Vec<Case> {
    let same = |n, side, c, o| case([n, side, side, c], [o, 3, 3], Conv2d::same(3, true));
    let halve = |side, c, pad| {
        let op = Conv2d { stride: 2, pad, bias: true, upsample: false };
        case([2, side, side, c], [c, 3, 3], op)
    };
    let enlarge = |n, side, c| {
        let op = Conv2d { upsample: true, ..Conv2d::same(3, true) };
        case([n, side, side, c], [c, 3, 3], op)
    };
    vec![
        same(2, 128, 4, 320),
        same(2, 128, 320, 320),
        shifted([2, 128, 128, 320], [320, 3, 3], Conv2d::same(3, true)),
        same(2, 128, 640, 320),
        same(2, 128, 960, 320),
        same(2, 128, 320, 4),
        halve(128, 320, [1; 4]),
        same(2, 64, 320, 640),
        same(2, 64, 640, 640),
        same(2, 64, 1280, 640),
        same(2, 64, 1920, 640),
        enlarge(2, 64, 640),
        halve(64, 640, [1; 4]),
        same(2, 32, 640, 1280),
        same(2, 32, 1280, 1280),
        same(2, 32, 1920, 1280),
        same(2, 32, 2560, 1280),
        enlarge(2, 32, 1280),
        case([2, 64, 64, 320], [640, 1, 1], Conv2d::same(1, true)),
        same(1, 128, 512, 512),
        same(1, 256, 512, 512),
        same(1, 512, 512, 256),
        enlarge(1, 256, 512),
        same(1, 1024, 128, 128),
        same(1, 1024, 128, 3),
        same(1, 1024, 3, 128),
    ]
}
