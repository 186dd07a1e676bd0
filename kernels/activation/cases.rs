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
