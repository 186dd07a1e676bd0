//! Shapes of test, gradient check and bench.

use super::{Diffuse, Noising};
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// Both combinations on an odd small shape, a batch, and the SDXL latent.
pub fn cases() -> Vec<Case> {
    let dims = [[1, 3, 5, 4], [3, 2, 2, 4], [1, 128, 128, 4]];
    let case = |mix: Noising, d: [usize; 4]| Case {
        name: format!("diffuse {mix:?} {d:?}"),
        op: Arc::new(Diffuse { mix }),
        ins: vec![Spec::f32(&d), Spec::f32(&d), Spec::i32(&d[..1]), Spec::f32(&[50])],
        data: vec![
            Fill::Normal(1.0),
            Fill::Normal(1.0),
            Fill::Ids(50),
            Fill::Values((0..50).map(|t| 0.999 - 0.02 * t as f32 * 0.99).collect()),
        ],
        grads: vec![true, true, false, false],
        state: vec![],
    };
    let both = [Noising::Noisy, Noising::Velocity];
    both.into_iter().flat_map(|m| dims.into_iter().map(move |d| case(m, d))).collect()
}
