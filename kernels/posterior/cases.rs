//! Shapes of test, gradient check and bench.

use super::Posterior;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// An odd small shape, a batch, one pixel, and the SDXL latent.
pub fn cases() -> Vec<Case> {
    let dims = [[1, 3, 5, 4], [2, 4, 2, 4], [1, 1, 1, 1], [1, 128, 128, 4]];
    let case = |d: [usize; 4]| Case {
        name: format!("posterior {d:?}"),
        op: Arc::new(Posterior { scale: 0.13025 }),
        ins: vec![Spec::f32(&[d[0], d[1], d[2], 2 * d[3]]), Spec::f32(&d)],
        data: vec![Fill::Normal(1.0), Fill::Normal(1.0)],
        grads: vec![true, true],
        state: vec![],
    };
    dims.map(case).into()
}
