//! Shapes of the tests and benches.

use super::Normal;
use crate::{
    kernels::case::{Case, Fill},
    tensor::Spec,
};
use std::sync::Arc;

/// SDXL's and nano's latents, a ragged tail, one element, several streams.
pub fn cases() -> Vec<Case> {
    let case = |n: usize, dims: &[usize]| Case {
        name: format!("noise {n} x {dims:?}"),
        op: Arc::new(Normal { dims: dims.to_vec() }),
        ins: vec![Spec::i32(&[n, super::STATE_WORDS])],
        data: vec![Fill::Ids(i32::MAX as usize)],
        grads: vec![false],
        state: vec![],
    };
    vec![
        case(1, &[1]),
        case(3, &[5, 7]),
        case(2, &[1023]),
        case(2, &[16, 16, 4]),
        case(1, &[128, 128, 4]),
        case(2, &[0, 4]),
    ]
}
