//! The norm of a gradient as the optimizer takes it, for test and bench.

use crate::{
    kernels::{
        adamw::cases::{SDXL_RANK_32, Step},
        case::{Case, Fill},
    },
    tensor::Spec,
};
use std::sync::Arc;

fn case(len: usize) -> Case {
    Case {
        name: format!("grad_norm [{len}]"),
        op: Arc::new(Step::norm()),
        ins: vec![Spec::f32(&[len])],
        data: vec![Fill::Normal(0.1)],
        grads: vec![false],
        state: vec![],
    }
}

/// One number, a ragged tail, more than one piece of a block.
pub fn cases() -> Vec<Case> {
    [1, 4095, 70_001].map(case).into()
}

/// Adapters of rank 32 of SDXL's U-Net.
pub fn bench_cases() -> Vec<Case> {
    vec![case(SDXL_RANK_32)]
}
