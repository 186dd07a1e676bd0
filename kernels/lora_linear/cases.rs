//! Shapes: ragged, rank 1, rank beyond one vector, rank 0, with and without bias.

use super::LoraLinear;
use crate::kernels::case::Case;

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize, usize); 7] = [
        (&[1, 1], 1, 1),
        (&[2, 3, 5], 4, 1),
        (&[7, 17], 33, 4),
        (&[2, 9, 48], 64, 8),
        (&[5, 20], 12, 33),
        (&[264, 272], 40, 8),
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
    shapes.into_iter().flat_map(|s| [one(s, false), one(s, true)]).collect()
}
