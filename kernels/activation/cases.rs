//! Shapes of test, gradient check and bench.

use super::{Activation, Kind};
use crate::kernels::case::Case;

/// Every function on a ragged, an empty and a U-Net shape.
pub fn cases() -> Vec<Case> {
    let kinds = [Kind::Silu, Kind::Gelu, Kind::QuickGelu];
    let of = |kind: Kind| {
        let name = format!("activation {kind:?}");
        let dims: [&[usize]; 3] = [&[3, 7, 5], &[0, 4], &[2, 1280]];
        dims.map(|d| Case::normal(&name, Activation { kind }, &[d]))
    };
    kinds.into_iter().flat_map(of).collect()
}

/// A map of the U-Net's first level, CLIP's hidden states, the time embedding.
pub fn bench_cases() -> Vec<Case> {
    let of = |kind, dims: &[usize]| {
        Case::normal(&format!("activation {kind:?}"), Activation { kind }, &[dims])
    };
    vec![
        of(Kind::Silu, &[2, 128, 128, 320]),
        of(Kind::Gelu, &[2, 77, 5120]),
        of(Kind::QuickGelu, &[2, 77, 3072]),
        of(Kind::Silu, &[2, 1280]),
    ]
}
