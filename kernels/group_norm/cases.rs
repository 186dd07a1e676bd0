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
        op: Arc::new(GroupNorm { groups, eps: 1e-5, silu, concat: false }),
        ins: vec![Spec::f32(dims), Spec::f32(&[c]), Spec::f32(&[c])],
        data: vec![x, Fill::Uniform(0.5, 1.5), Fill::Normal(0.5)],
        grads: vec![true; 3],
        state: vec![],
    }
}

/// Of the first `split` channels and the others.
fn parts(dims: &[usize], split: usize, groups: usize, silu: bool) -> Case {
    let whole = case(dims, groups, silu, Fill::Normal(1.0));
    let c = dims[dims.len() - 1];
    let part = |c| Spec::f32(&[&dims[..dims.len() - 1], &[c]].concat());
    Case {
        name: format!("{}, parts of {split} and {}", whole.name, c - split),
        op: Arc::new(GroupNorm { groups, eps: 1e-5, silu, concat: true }),
        ins: [&[part(split), part(c - split)], &whole.ins[1..]].concat(),
        data: [&[Fill::Normal(1.0), Fill::Normal(2.0)], &whole.data[1..]].concat(),
        grads: vec![true; 4],
        state: vec![],
    }
}

/// One group, one channel a group, tokens, odd widths, several blocks with a short last one, more
/// column tiles than one, clusters with ragged rows, an SDXL feature map, and numbers far from
/// zero, where `E[x^2] - E[x]^2` would have no digit left; two parts.
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
    // a group on both sides of the cut, by scalars, by vectors, in clusters; gradients of one part
    let one = |mut case: Case, part: usize| {
        case.grads[part] = false;
        case
    };
    all.extend([
        parts(&[2, 5, 6], 1, 3, true),
        one(parts(&[2, 37, 24], 9, 4, true), 0),
        parts(&[2, 37, 24], 8, 4, false),
        parts(&[2, 37, 48], 16, 4, true),
        one(parts(&[1, 24, 24, 80], 32, 2, true), 1),
        parts(&[1, 24, 24, 96], 32, 2, true),
    ]);
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
    let joined = [([2, 32, 32, 1920], 1280), ([2, 64, 64, 1280], 640), ([2, 128, 128, 960], 640)];
    let maps = maps.into_iter().map(|(d, silu)| case(&d, 32, silu, Fill::Normal(1.0)));
    maps.chain(joined.map(|(d, split)| parts(&d, split, 32, true))).collect()
}
