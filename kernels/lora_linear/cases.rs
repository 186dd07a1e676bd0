//! Shapes: ragged, rank 1, rank beyond one vector, rank 0, with and without bias; SDXL's layers.

use super::{LoraLinear, joined::JoinedLora};
use crate::kernels::case::Case;

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 16] = [
        (&[1, 1], 1, 1),
        (&[2, 3, 5], 4, 1),
        (&[7, 17], 33, 4),
        (&[2, 9, 48], 64, 8),
        (&[5, 20], 12, 33),
        (&[264, 272], 40, 8),
        // ranks for no tensor core: models fill theirs up
        (&[70, 40], 24, 4),
        (&[33, 24], 16, 11),
        // the tensor cores' kernels: ranks of one K-step, a part of one, more than a slab
        (&[70, 72], 136, 16),
        (&[2, 9, 1032], 24, 24),
        (&[300, 88], 168, 72),
        (&[150, 392], 200, 120),
        // rows for every block of a cluster that sums da and dup, and for a part of them; tiles of both, ragged
        (&[2, 290, 264], 136, 32),
        (&[200, 136], 264, 40),
        (&[30, 56], 104, 5), // more columns than rows: the CPU's threads own columns
        (&[3, 4], 2, 0),
    ];
    let alone = shapes.into_iter().flat_map(|s| [one(s, false, false), one(s, true, false)]);
    alone.chain(residual_cases()).chain(joined_cases()).collect()
}

/// One layer of `n` outputs and rank `r` on `x`.
fn one((x, n, r): (&[usize], usize, usize), bias: bool, residual: bool) -> Case {
    let k = x.last().copied().unwrap_or(1);
    let (w, b, a, up) = ([n, k], [n], [r, k], [n, r]);
    let y = [&x[..x.len() - 1], &[n]].concat();
    let mut dims: Vec<&[usize]> = vec![x, &w];
    dims.extend(bias.then_some(&b[..]));
    dims.extend([&a[..], &up[..]]);
    dims.extend(residual.then_some(&y[..]));
    let with = |what: &'static str, there: bool| if there { what } else { "" };
    let name = format!("lora_linear{}{}", with(" with bias", bias), with(" residual", residual));
    Case::normal(&name, LoraLinear { bias, residual, scale: 0.5 }, &dims)
}

/// Ragged, a rank for no tensor core, every family of kernels, a sum cut into ranges, few columns (rank 0 too: the narrow kernels
/// add nothing to their result), nothing to do.
fn residual_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 9] = [
        (&[2, 3, 5], 4, 1),
        (&[7, 17], 33, 4),
        (&[70, 40], 24, 4),
        (&[70, 72], 136, 16),
        (&[2, 9, 1032], 24, 24),
        (&[300, 88], 168, 72),
        (&[30, 56], 104, 5),
        (&[264, 80], 32, 0),
        (&[0, 4], 3, 2),
    ];
    shapes.into_iter().enumerate().map(|(i, s)| one(s, i % 2 == 0, true)).collect()
}

/// Two parts and the most; ragged extents, ranks of a part of a K-step, of more than a slab, and for no tensor core; a sum
/// cut into ranges; nothing to do.
fn joined_cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize, usize, bool); 12] = [
        (&[2, 3, 5], 4, 1, 2, true),
        (&[7, 24], 40, 8, 3, false),
        (&[2, 37, 72], 136, 32, 3, false),
        (&[300, 88], 168, 24, 2, true),
        (&[70, 72], 136, 16, 8, false),
        (&[2, 9, 1032], 104, 72, 2, true),
        // da and dup of other widths in one launch: 64 and 32 columns, 128 and 64
        (&[530, 136], 40, 24, 2, false),
        (&[2, 70, 264], 136, 40, 3, false),
        (&[33, 24], 16, 11, 2, false),
        (&[140, 72], 88, 48, 3, true), // too wide for one h
        (&[130, 40], 8, 8, 7, true),
        (&[0, 4], 3, 2, 2, false),
    ];
    shapes.into_iter().map(joined).collect()
}

/// Layers of `n` outputs and rank `r` on one `x`.
fn joined((x, n, r, parts, bias): (&[usize], usize, usize, usize, bool)) -> Case {
    let k = x.last().copied().unwrap_or(1);
    let (w, b, a, up) = ([n, k], [n], [parts * r, k], [parts * n, r]);
    let own: &[&[usize]] = if bias { &[&w, &b] } else { &[&w] };
    let frozen = (0..parts).flat_map(|_| own.iter().copied());
    let dims: Vec<&[usize]> = [x].into_iter().chain(frozen).chain([&a[..], &up[..]]).collect();
    let mut case = Case::normal("joined lora", JoinedLora { bias, parts, scale: 0.5 }, &dims);
    let last = dims.len() - 2;
    case.grads = (0..dims.len()).map(|i| i == 0 || i >= last).collect();
    case
}

/// SDXL's attention projections at 1024 x 1024, one and four pictures, usual ranks; with the sum behind them.
pub fn bench_cases() -> Vec<Case> {
    let layer = |residual| LoraLinear { bias: true, residual, scale: 1.0 };
    let mut all = vec![];
    for (rows, width) in [(4096, 640), (1024, 1280), (16384, 640), (4096, 1280)] {
        for rank in [8, 16, 32, 128] {
            let dims: [&[usize]; 5] =
                [&[rows, width], &[width, width], &[width], &[rank, width], &[width, rank]];
            let mut case = Case::normal("lora_linear", layer(false), &dims);
            case.grads = vec![true, false, false, true, true]; // the base layer is frozen
            all.push(case);
        }
        let (w, b, a, up) = ([width, width], [width], [32, width], [width, 32]);
        let dims: [&[usize]; 6] = [&[rows, width], &w, &b, &a, &up, &[rows, width]];
        let mut case = Case::normal("lora_linear residual", layer(true), &dims);
        case.grads = vec![true, false, false, true, true, false]; // the residual's is another name of dy
        all.push(case);
        // q, k and v
        all.push(joined((&[rows, width], width, 32, 3, false)));
    }
    all
}
