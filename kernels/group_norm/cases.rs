//! Shapes of test, gradient check and bench.

use super::GroupNorm;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

fn case(dims: &[usize], groups: usize, silu: bool, x: Fill) -> Case {
    let c = dims[dims.len() - 1];
    let far = if matches!(x, Fill::Uniform(..)) { " far from zero" } else { "" };
    Case {
        name: format!(
            "group_norm {dims:?} groups {groups}{}{far}",
            if silu { " silu" } else { "" }
        ),
        op: Arc::new(GroupNorm { groups, eps: 1e-5, silu }),
        ins: vec![Spec::f32(dims), Spec::f32(&[c]), Spec::f32(&[c])],
        data: vec![x, Fill::Uniform(0.5, 1.5), Fill::Normal(0.5)],
        grads: vec![true; 3],
        state: vec![],
    }
}

/// One group, one channel a group, tokens, odd widths, several blocks with a short last one, more
/// column tiles than one, clusters with ragged rows, an SDXL feature map, and numbers far from
/// zero, where `E[x^2] - E[x]^2` would have no digit left.
pub fn cases() -> Vec<Case> {
    let dims: [(&[usize], usize); 10] = [
        (&[1, 2, 3, 4], 1),
        (&[2, 3, 3, 4], 2),
        (&[2, 3, 3, 4], 4),
        (&[3, 5, 6], 3),
        (&[2, 17, 17, 2], 2),
        (&[1, 1, 16], 4),
        (&[2, 333, 24], 3),
        (&[1, 3, 2, 2072], 7),
        (&[2, 203, 96], 12),
        (&[1, 32, 32, 320], 32),
    ];
    let normal = |d: (&[usize], usize), silu| case(d.0, d.1, silu, Fill::Normal(1.0));
    let mut all: Vec<Case> =
        dims.into_iter().flat_map(|d| [normal(d, false), normal(d, true)]).collect();
    all.push(case(&[2, 33, 32, 16], 4, false, Fill::Uniform(1000.0, 1001.0)));
    all
}

/// SDXL's feature maps at 1024 pixels, two samples as guidance has them, and the decoder's largest.
pub fn bench_cases() -> Vec<Case> {
    let maps = [
        ([2, 128, 128, 320], true),
        ([2, 64, 64, 640], true),
        ([2, 72, 64, 640], true), // a picture that is not square: the larger cluster in backward
        ([2, 32, 32, 1280], true),
        ([2, 32, 32, 1280], false),
        ([2, 32, 32, 2560], true),
        ([2, 64, 64, 1920], true),
        ([2, 128, 128, 960], true),
        ([1, 512, 512, 256], true),
        ([1, 1024, 1024, 128], true),
    ];
    maps.into_iter().map(|(d, silu)| case(&d, 32, silu, Fill::Normal(1.0))).collect()
}
