//! Shapes of the tests and benches.

use super::{LatentMix, Noise, Segment};
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// One subject of a case: place, latent extent, mask extent.
type Subject = (f32, [i32; 2], [usize; 2], [usize; 2]);

fn case(name: &str, noise: Noise, [n, h, w, c]: [usize; 4], subjects: &[Subject]) -> Case {
    let (mut segments, mut ins, mut data, mut grads) = (vec![], vec![], vec![], vec![]);
    for (gamma, [top, left], z, mask) in subjects {
        segments.push(Segment { gamma: *gamma, top: *top, left: *left });
        ins.extend([Spec::f32(&[n, z[0], z[1], c]), Spec::f32(&[n, mask[0], mask[1]])]);
        data.extend([Fill::Normal(1.0), Fill::Uniform(0.0, 1.0)]);
        grads.extend([true, true]);
    }
    let (last, fill) = match noise {
        Noise::Given => (Spec::f32(&[n, h, w, c]), Fill::Normal(1.0)),
        Noise::Seeded => (Spec::i32(&[n, 4]), Fill::Ids(i32::MAX as usize)),
    };
    ins.push(last);
    data.push(fill);
    grads.push(noise == Noise::Given);
    let op = Arc::new(LatentMix { segments, canvas: [h, w], noise });
    Case {
        name: format!("latent_mix {name} [{n}, {h}, {w}, {c}]"),
        op,
        ins,
        data,
        grads,
        state: vec![],
    }
}

/// nano's and SD's latents, soft overlapping edges, segments cut by the canvas, masks finer, coarser and
/// equal, channel counts without 16-byte access, seeded and given noise.
pub fn cases() -> Vec<Case> {
    use Noise::{Given, Seeded};
    let whole = |n| [n, n];
    vec![
        case("whole canvas", Given, [1, 4, 4, 4], &[(1.0, [0, 0], whole(4), whole(4))]),
        case(
            "two overlap, finer masks",
            Given,
            [2, 6, 8, 4],
            &[(1.0, [0, 0], [6, 8], [24, 32]), (0.7, [1, 2], [4, 5], [16, 20])],
        ),
        case(
            "three, cut by the canvas",
            Given,
            [1, 5, 7, 3],
            &[
                (1.0, [-2, -1], [4, 4], [7, 5]),
                (-0.5, [3, 5], [4, 4], [4, 4]),
                (2.0, [1, 1], [3, 5], [2, 2]),
            ],
        ),
        case("coarse mask", Seeded, [2, 6, 5, 4], &[(1.5, [0, 0], [6, 5], [2, 3])]),
        case("one pixel", Seeded, [1, 1, 1, 1], &[(1.0, [0, 0], [1, 1], [3, 1])]),
        case("all outside", Seeded, [1, 3, 3, 4], &[(1.0, [3, -9], [2, 2], [2, 2])]),
        case(
            "nano, union",
            Seeded,
            [2, 16, 16, 4],
            &[(1.0, [0, 0], whole(16), whole(128)), (1.0, [0, 0], whole(16), whole(128))],
        ),
        case(
            "SD 1.5",
            Given,
            [1, 64, 64, 4],
            &[(1.0, [0, 0], whole(64), whole(512)), (1.0, [8, 24], [48, 40], [384, 320])],
        ),
    ]
}
