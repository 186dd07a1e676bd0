//! Shapes of test, gradient check and bench.

use super::GroupNorm;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// One group, one channel a group, tokens, several blocks with a short last one, an SDXL feature map.
pub fn cases() -> Vec<Case> {
    let dims: [(&[usize], usize); 5] = [
        (&[1, 2, 3, 4], 1),
        (&[2, 3, 3, 4], 4),
        (&[3, 5, 6], 3),
        (&[2, 17, 17, 2], 2),
        (&[1, 64, 64, 320], 32),
    ];
    let case = |(d, groups): (&[usize], usize), silu: bool| {
        let c = d[d.len() - 1];
        Case {
            name: format!("group_norm {d:?} groups {groups}{}", if silu { " silu" } else { "" }),
            op: Arc::new(GroupNorm { groups, eps: 1e-5, silu }),
            ins: vec![Spec::f32(d), Spec::f32(&[c]), Spec::f32(&[c])],
            data: vec![Fill::Normal(1.0), Fill::Uniform(0.5, 1.5), Fill::Normal(0.5)],
            grads: vec![true; 3],
        }
    };
    dims.into_iter().flat_map(|d| [case(d, false), case(d, true)]).collect()
}
