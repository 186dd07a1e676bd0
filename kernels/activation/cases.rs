//! Shapes of test, gradient check and bench.

use super::{Activation, Kind};
use crate::kernels::case::{Case, Fill};

/// Every function on a ragged, an empty and a U-Net shape.
pub fn cases() -> Vec<Case> {
    let kinds = [Kind::Silu, Kind::Gelu, Kind::QuickGelu, Kind::Tanh, Kind::Elu, Kind::Sigmoid];
    let of = |kind: Kind| {
        let name = format!("activation {kind:?}");
        let dims: [&[usize]; 3] = [&[3, 7, 5], &[0, 4], &[2, 1280]];
        dims.map(|d| Case::normal(&name, Activation { kind }, &[d]))
    };
    let mut all: Vec<Case> = kinds.into_iter().flat_map(of).collect();
    // Away from the corner at zero, which has no slope.
    let relu = |dims: &[usize]| {
        let mut case = Case::normal("activation Relu", Activation { kind: Kind::Relu }, &[dims]);
        case.data = vec![Fill::Values(vec![0.9, -0.7, 0.3, -1.1, 0.5, -0.1, 1.3])];
        case
    };
    all.extend([relu(&[3, 7, 5]), relu(&[0, 4]), relu(&[2, 1280])]);
    // Beyond where exp overflows.
    let mut far =
        Case::normal("activation Sigmoid far", Activation { kind: Kind::Sigmoid }, &[&[33]]);
    far.data = vec![Fill::Values(vec![-300.3, -89.1, -60.7, -17.3, 0.0, 2.53, 17.3, 60.7, 300.3])];
    all.push(far);
    all
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
        of(Kind::Relu, &[2, 64, 64, 256]),
    ]
}
