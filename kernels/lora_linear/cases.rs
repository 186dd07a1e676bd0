//! Shapes: ragged, rank 1, rank beyond one vector, rank 0, with and without bias; SDXL's layers.

use super::{LoraLinear, joined::JoinedLora};
use crate::kernels::case::Case;

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 13] = [
        (&[1, 1], 1, 1),
        (&[2, 3, 5], 4, 1),
        (&[7, 17], 33, 4),
        (&[2, 9, 48], 64, 8),
        (&[5, 20], 12, 33),
        (&[264, 272], 40, 8),
        // ranks that are copied into rows of 16 bytes
        (&[70, 40], 24, 4),
        (&[33, 24], 16, 11),
        // the tensor cores' kernels: ranks of one K-step, a part of one, more than a slab
        (&[70, 72], 136, 16),
        (&[2, 9, 1032], 24, 24),
        (&[300, 88], 168, 72),
        (&[30, 56], 104, 5), // more columns than rows: the CPU's threads own columns
        (&[3, 4], 2, 0),
    ];
    let one = |(x, n, r): (&[usize], usize, usize), bias: bool| {
        let k = x.last().copied().unwrap_or(1);
        let (w, b, a, up) = ([n, k], [n], [r, k], [n, r]);
        let mut dims: Vec<&[usize]> = vec![x, &w];
        dims.extend(bias.then_some(&b[..]));
        dims.extend([&a[..], &up[..]]);
        let name = if bias { "lora_linear with bias" } else { "lora_linear" };
        Case::normal(name, LoraLinear { bias, scale: 0.5 }, &dims)
    };
    let alone = shapes.into_iter().flat_map(|s| [one(s, false), one(s, true)]);
    alone.chain(joined_cases()).collect()
}

/// Two parts and the most; ragged extents, ranks of a part of a K-step, of more than a slab, and for no tensor core; a sum
/// cut into ranges; nothing to do.
fn joined_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize, usize, bool); 9] = [
        (&[2, 3, 5], 4, 1, 2, true),
        (&[7, 24], 40, 8, 3, false),
        (&[2, 37, 72], 136, 32, 3, false),
        (&[300, 88], 168, 24, 2, true),
        (&[70, 72], 136, 16, 8, false),
        (&[2, 9, 1032], 104, 72, 2, true),
        (&[33, 24], 16, 11, 2, false),
        (&[130, 40], 8, 8, 7, true),
        (&[0, 4], 3, 2, 2, false),
    ];
    let one = |(x, n, r, parts, bias): (&[usize], usize, usize, usize, bool)| {
        let k = x.last().copied().unwrap_or(1);
        let (w, b, a, up) = ([n, k], [n], [parts * r, k], [parts * n, r]);
        let own: &[&[usize]] = if bias { &[&w, &b] } else { &[&w] };
        let frozen = (0..parts).flat_map(|_| own.iter().copied());
        let dims: Vec<&[usize]> = [x].into_iter().chain(frozen).chain([&a[..], &up[..]]).collect();
        let mut case = Case::normal("joined lora", JoinedLora { bias, parts, scale: 0.5 }, &dims);
        let last = dims.len() - 2;
        case.grads = (0..dims.len()).map(|i| i == 0 || i >= last).collect();
        case
    };
    shapes.into_iter().map(one).collect()
}

/// SDXL's attention projections at 1024 x 1024, one and four pictures, usual ranks.
pub fn bench_cases() -> Vec<Case> {
    let mut all = vec![];
    for (rows, width) in [(4096, 640), (1024, 1280), (16384, 640), (4096, 1280)] {
        for rank in [4, 16, 32, 128] {
            let dims: [&[usize]; 5] =
                [&[rows, width], &[width, width], &[width], &[rank, width], &[width, rank]];
            let mut case =
                Case::normal("lora_linear", LoraLinear { bias: true, scale: 1.0 }, &dims);
            case.grads = vec![true, false, false, true, true]; // the base layer is frozen
            all.push(case);
        }
    }
    all
}
