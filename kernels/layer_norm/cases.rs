//! Shapes of test, gradient check and bench.

use super::LayerNorm;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

fn case(dims: &[usize], x: Fill) -> Case {
    let c = dims[dims.len() - 1];
    let far = if matches!(x, Fill::Uniform(..)) { " far from zero" } else { "" };
    Case {
        name: format!("layer_norm {dims:?}{far}"),
        op: Arc::new(LayerNorm { eps: 1e-5 }),
        ins: vec![Spec::f32(dims), Spec::f32(&[c]), Spec::f32(&[c])],
        data: vec![x, Fill::Uniform(0.5, 1.5), Fill::Normal(0.5)],
        grads: vec![true; 3],
        state: vec![],
    }
}

/// A single row, odd sizes, more rows than one block, rows wider than a warp's registers, an SDXL
/// transformer's tokens, and numbers far from zero.
pub fn cases() -> Vec<Case> {
    let dims: [&[usize]; 9] = [
        &[12],
        &[3, 2, 7],
        &[2, 1, 65],
        &[37, 8],
        &[9, 259],
        &[2, 3, 1288],
        &[5, 1280],
        &[600, 16],
        &[1, 512, 640],
    ];
    let mut all: Vec<Case> = dims.into_iter().map(|d| case(d, Fill::Normal(1.0))).collect();
    all.push(case(&[19, 72], Fill::Uniform(1000.0, 1001.0)));
    all
}

/// SDXL's transformers at 1024 pixels with guidance, and its text encoders.
pub fn bench_cases() -> Vec<Case> {
    let dims: [&[usize]; 4] = [&[2, 4096, 640], &[2, 1024, 1280], &[2, 77, 768], &[2, 77, 1280]];
    dims.into_iter().map(|d| case(d, Fill::Normal(1.0))).collect()
}
