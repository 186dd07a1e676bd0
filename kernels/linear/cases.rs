//! Shapes: single elements, ragged, with and without bias, empty; sums cut into ranges.

use super::Linear;
use crate::kernels::case::Case;

/// Calls that every variant must get right.
pub fn cases() -> Vec<Case> {
    let shapes: [(&[usize], usize); 10] = [
        (&[1], 1),
        (&[3, 5], 2),
        (&[2, 3, 17], 19),
        (&[13, 48], 65),
        (&[2, 9, 130], 50),
        (&[300, 280], 24),
        (&[2, 37, 72], 136),
        (&[70, 8], 8),
        (&[0, 4], 3),
        (&[2, 0], 3),
    ];
    let one = |(x, n): (&[usize], usize), bias: bool| {
        let w = [n, x.last().copied().unwrap_or(1)];
        let dims: [&[usize]; 3] = [x, &w, &[n]];
        let name = if bias { "linear with bias" } else { "linear" };
        Case::normal(name, Linear { bias }, &dims[..2 + usize::from(bias)])
    };
    shapes.into_iter().flat_map(|s| [one(s, false), one(s, true)]).collect()
}
