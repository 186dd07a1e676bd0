//! Shapes: single elements, ragged, with and without bias, empty; sums cut into ranges; SDXL's layers.

use super::{
    BatchedLinear, Linear,
    concat::ConcatLinear,
    fused::{FusedLinear, Then},
    gated::{FeedForward, GatedLinear},
    joined::Joined,
};
use crate::kernels::{
    activation::Kind,
    case::{Case, Fill},
};

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize); 14] = [
        (&[1], 1),
        (&[3, 5], 2),
        (&[2, 3, 17], 19),
        (&[13, 48], 65),
        (&[2, 9, 130], 50),
        (&[300, 280], 24),
        // rows of 16 bytes: the tensor cores' kernels
        (&[2, 37, 72], 136),
        (&[70, 8], 8),
        (&[264, 80], 328),
        // few tiles and a long sum: ranges in forward and dx, then in dw
        (&[16, 1032], 24),
        (&[1030, 16], 24),
        (&[30, 40], 200), // more columns than rows: the CPU's threads own columns
        (&[0, 4], 3),
        (&[2, 0], 3),
    ];
    let one = |(x, n): (&[usize], usize), bias: bool| {
        let w = [n, x.last().copied().unwrap_or(1)];
        let dims: [&[usize]; 3] = [x, &w, &[n]];
        let name = if bias { "linear with bias" } else { "linear" };
        Case::normal(name, Linear { bias }, &dims[..2 + usize::from(bias)])
    };
    let plain = shapes.into_iter().flat_map(|s| [one(s, false), one(s, true)]);
    let more = fused_cases().into_iter().chain(gated_cases()).chain(joined_cases());
    let more = more.chain(concat_cases());
    plain.chain(more).chain(batched_cases()).collect()
}

/// One and several samples, few rows and many, widths for the tensor cores and for none, nothing to do.
fn batched_cases() -> Vec<Case> {
    let shapes: [([usize; 3], usize); 7] = [
        ([1, 1, 1], 1),
        ([3, 5, 7], 4),
        ([2, 70, 40], 24),
        ([2, 33, 9], 3),
        ([1, 256, 32], 4),
        ([2, 30, 40], 200),
        ([0, 3, 4], 2),
    ];
    let one = |(x, o): ([usize; 3], usize)| {
        Case::normal("linear batched", BatchedLinear, &[&x, &[x[0], o, x[2]]])
    };
    shapes.into_iter().map(one).collect()
}

/// Every function, with and without residual; widths for the tensor cores and for none; a sum cut into ranges.
fn fused_cases() -> Vec<Case> {
    use Then::{Activation, Geglu, Nothing};
    let shapes: [(&[usize], usize, Then, bool); 13] = [
        (&[3, 5], 4, Nothing, true),
        (&[2, 37, 72], 136, Nothing, true),
        (&[16, 1032], 24, Nothing, true),
        (&[30, 40], 200, Nothing, true),
        (&[0, 4], 3, Nothing, true),
        (&[7, 6], 5, Activation(Kind::Silu), true),
        (&[70, 40], 168, Activation(Kind::Gelu), false),
        (&[9, 16], 24, Activation(Kind::QuickGelu), true),
        (&[16, 1032], 24, Activation(Kind::Relu), false),
        (&[3, 7], 6, Geglu, true),
        (&[135, 72], 272, Geglu, true),
        (&[16, 1032], 32, Geglu, false),
        (&[0, 4], 6, Geglu, false),
    ];
    let one = |(x, n, then, residual): (&[usize], usize, Then, bool)| {
        let (k, out) = (x.last().copied().unwrap_or(1), if then == Geglu { n / 2 } else { n });
        let y = [&x[..x.len() - 1], &[out]].concat();
        let (w, b) = ([n, k], [n]);
        let mut dims: Vec<&[usize]> = vec![x, &w, &b];
        dims.extend(residual.then_some(&y[..]));
        let op = FusedLinear { bias: true, residual, then };
        let mut case = Case::normal(&format!("fused linear {then:?}"), op, &dims);
        case.grads.fill(then == Nothing);
        case
    };
    shapes.into_iter().map(one).collect()
}

/// Both operations around a GEGLU: single numbers, ragged, with and without biases and residual; widths for the tensor
/// cores and for none; sums cut into ranges; nothing to do. `d` values, `n` results of a block.
fn gated_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize, [bool; 3]); 9] = [
        (&[1], 1, 1, [true, true, false]),
        (&[2, 3, 5], 3, 7, [true, true, true]),
        (&[2, 37, 72], 136, 72, [true, true, true]),
        (&[70, 40], 88, 40, [false, true, true]),
        (&[300, 24], 168, 24, [true, false, false]),
        (&[16, 1032], 24, 1032, [true, true, true]), // a long sum in both
        (&[30, 40], 200, 48, [false, false, true]),
        (&[0, 4], 6, 4, [true, true, true]),
        (&[3, 2], 0, 2, [true, true, false]),
    ];
    let mut all = vec![];
    for (x, d, n, [b1, b2, residual]) in shapes {
        let k = x.last().copied().unwrap_or(1);
        let y = [&x[..x.len() - 1], &[n]].concat();
        let (w1, bias1, w2, bias2) = ([2 * d, k], [2 * d], [n, d], [n]);
        let mut dims: Vec<&[usize]> = vec![x, &w1];
        dims.extend(b1.then_some(&bias1[..]));
        // values and gates of about 1: the slope of large ones jumps, and no rounding is close to another then
        let weight = |k: usize| Fill::Normal(1.0 / (k.max(1) as f32).sqrt());
        let mut case = Case::normal("gated linear", GatedLinear { bias: b1 }, &dims);
        case.data[1] = weight(k);
        all.push(case);
        let second = dims.len();
        dims.push(&w2);
        dims.extend(b2.then_some(&bias2[..]));
        dims.extend(residual.then_some(&y[..]));
        let op = FeedForward { bias: [b1, b2], residual };
        let mut case = Case::normal("feed-forward linear", op, &dims);
        (case.data[1], case.data[second]) = (weight(k), weight(d));
        all.push(case);
    }
    all
}

/// Two parts and the most; widths for the tensor cores, ragged in every extent, and for none; sums cut into ranges.
fn joined_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize, bool); 8] = [
        (&[3, 5], 4, 2, true),
        (&[2, 37, 72], 136, 3, false),
        (&[300, 40], 168, 2, true),
        (&[2, 72], 320, 8, true),
        (&[16, 1032], 24, 3, true),
        (&[130, 72], 8, 7, false),
        (&[30, 40], 200, 3, true),
        (&[0, 4], 8, 3, false),
    ];
    let one = |(x, n, parts, bias): (&[usize], usize, usize, bool)| {
        let (w, b) = ([n, x.last().copied().unwrap_or(1)], [n]);
        let own: &[&[usize]] = if bias { &[&w, &b] } else { &[&w] };
        let dims: Vec<&[usize]> =
            [x].into_iter().chain((0..parts).flat_map(|_| own.iter().copied())).collect();
        let mut case = Case::normal("joined linear", Joined { bias, parts }, &dims);
        case.grads.fill(false);
        case
    };
    shapes.into_iter().map(one).collect()
}

fn concat((x, b, n): (&[usize], usize, usize), bias: bool, residual: bool) -> Case {
    let (lead, a) = x.split_at(x.len() - 1);
    let of = |n: usize| [lead, &[n]].concat();
    let mut dims = vec![x.to_vec(), of(b), vec![n, a[0] + b]];
    dims.extend(bias.then(|| vec![n]));
    dims.extend(residual.then(|| of(n)));
    let dims: Vec<&[usize]> = dims.iter().map(Vec::as_slice).collect();
    Case::normal("linear of two parts", ConcatLinear { bias, residual }, &dims)
}

/// Extents of the first part, the width of the second and of the result.
type Two<'a> = (&'a [usize], usize, usize);

/// Two parts: single numbers, ragged; widths for the tensor cores, not of whole slabs, and for none; the second longer; a sum cut
/// into ranges; nothing to do.
fn concat_cases() -> Vec<Case> {
    let shapes: [(Two<'_>, bool, bool); 9] = [
        ((&[1], 1, 1), true, false),
        ((&[2, 3, 5], 4, 7), true, true),
        ((&[2, 37, 72], 40, 136), true, true),
        ((&[300, 24], 168, 24), false, false),
        ((&[130, 8], 8, 8), true, false),
        ((&[16, 1032], 200, 24), true, true),
        ((&[30, 40], 12, 200), false, true),
        ((&[0, 4], 3, 6), true, true),
        ((&[5, 4], 0, 3), true, false),
    ];
    let mut all: Vec<Case> =
        shapes.into_iter().map(|(s, bias, residual)| concat(s, bias, residual)).collect();
    // gradients of one part, the weight frozen
    for part in 0..2 {
        let mut case = concat((&[70, 40], 24, 48), true, false);
        case.grads = vec![part == 0, part == 1, false, true];
        all.push(case);
    }
    all
}

/// Tokens and width of SDXL's two levels with attention, `batch` pictures.
fn levels_of(batch: usize) -> [(usize, usize); 2] {
    [(batch * 4096, 640), (batch * 1024, 1280)]
}

/// SDXL's layers at 1024 x 1024: the two levels with attention, one and four pictures; text keys and values;
/// the time embedding.
pub fn bench_cases() -> Vec<Case> {
    let mut shapes = vec![(1, 1280, 1280), (77, 2048, 640), (77, 2048, 1280)];
    for batch in [1, 2, 4] {
        for (rows, width) in levels_of(batch) {
            shapes.extend([
                (rows, width, width),
                (rows, width, 8 * width), // values and gates of GEGLU
                (rows, 4 * width, width),
            ]);
        }
    }
    let one = |(rows, k, n): (usize, usize, usize)| {
        Case::normal("linear", Linear { bias: true }, &[&[rows, k], &[n, k], &[n]])
    };
    let mut all: Vec<Case> = shapes.into_iter().map(one).collect();
    // a transformer block's feed-forward part in training, four pictures: its weights are frozen
    for (tokens, width) in levels_of(4) {
        let op = FeedForward { bias: [true, true], residual: true };
        let (x, d) = ([tokens, width], 4 * width);
        let dims: [&[usize]; 6] = [&x, &[2 * d, width], &[2 * d], &[width, d], &[width], &x];
        let mut case = Case::normal("feed-forward linear", op, &dims);
        case.grads = vec![true, false, false, false, false, true];
        all.push(case);
    }
    // the shortcuts that SDXL's skip connections enter, in training too
    for (side, widths, n) in
        [(32, [1280, 1280], 1280), (64, [1280, 640], 640), (128, [640, 320], 320)]
    {
        let mut case = concat((&[2, side, side, widths[0]], widths[1], n), true, true);
        case.grads = vec![true, true, false, false, true];
        all.push(case);
    }
    // the masks of SAM's decoder, and OWLv2's classes
    for (x, o) in [([1, 65_536, 32], 4), ([1, 3600, 512], 8)] {
        all.push(Case::normal("linear batched", BatchedLinear, &[&x, &[x[0], o, x[2]]]));
    }
    all
}
