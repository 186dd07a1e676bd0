//! Shapes of the tests and benches.

use super::{LatentMix, Noise};
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

fn case(name: &str, (noise, gamma): (Noise, f32), dims: [usize; 4], mask: [usize; 2]) -> Case {
    let n = dims[0];
    let (last, fill) = match noise {
        Noise::Given => (Spec::f32(&dims), Fill::Normal(1.0)),
        Noise::Seeded => (Spec::i32(&[n, 4]), Fill::Ids(i32::MAX as usize)),
    };
    let op = Arc::new(LatentMix { gamma, noise });
    Case {
        name: format!("latent_mix {name} {dims:?}"),
        op,
        ins: vec![Spec::f32(&dims), Spec::f32(&[n, mask[0], mask[1]]), last],
        data: vec![Fill::Normal(1.0), Fill::Uniform(0.0, 1.0), fill],
        grads: vec![true, true, noise == Noise::Given],
        state: vec![],
    }
}

/// nano's and SD's latents, masks finer, coarser and equal, channel counts without 16-byte access, seeded and given
/// noise.
pub fn cases() -> Vec<Case> {
    use Noise::{Given, Seeded};
    vec![
        case("mask of the latents' size", (Given, 1.0), [1, 4, 4, 4], [4, 4]),
        case("finer mask", (Given, 0.7), [2, 6, 8, 4], [24, 32]),
        case("odd mask, three channels", (Given, -0.5), [1, 5, 7, 3], [7, 5]),
        case("coarse mask", (Seeded, 1.5), [2, 6, 5, 4], [2, 3]),
        case("odd mask, seeded", (Seeded, 2.0), [1, 5, 7, 3], [11, 9]),
        case("one pixel", (Seeded, 1.0), [1, 1, 1, 1], [3, 1]),
        case("nano", (Seeded, 1.0), [2, 16, 16, 4], [128, 128]),
        case("SD 1.5", (Given, 1.0), [1, 64, 64, 4], [512, 512]),
    ]
}
