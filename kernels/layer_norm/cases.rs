//! Shapes of test, gradient check and bench.

use super::LayerNorm;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// A single row, odd sizes, more rows than one block, and an SDXL transformer's tokens.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 5] = [&[5], &[3, 2, 7], &[2, 1, 65], &[37, 8], &[1, 4096, 640]];
    let case = |d: &[usize]| {
        let c = d[d.len() - 1];
        Case {
            name: format!("layer_norm {d:?}"),
            op: Arc::new(LayerNorm { eps: 1e-5 }),
            ins: vec![Spec::f32(d), Spec::f32(&[c]), Spec::f32(&[c])],
            data: vec![Fill::Normal(1.0), Fill::Uniform(0.5, 1.5), Fill::Normal(0.5)],
            grads: vec![true; 3],
        }
    };
    dims.into_iter().map(case).collect()
}
