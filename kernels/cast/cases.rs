//! Shapes of test, gradient check and bench.

use super::Cast;
use crate::{
    kernels::case::{Case, Fill},
    tensor::DType,
};

/// Ragged, empty, and a trainable adapter's.
fn to(to: DType) -> Vec<Case> {
    let dims: [&[usize]; 3] = [&[3, 7, 5], &[0, 4], &[32, 640]];
    let of = |d: &[usize]| {
        let mut case = Case::normal(&format!("cast to {to}"), Cast { to }, &[d]);
        case.data = vec![Fill::Normal(30.0)];
        case
    };
    dims.map(of).into()
}

/// To f32, from every type.
pub fn cases() -> Vec<Case> {
    to(DType::F32)
}

/// To the 16-bit types; apart, because finite differences of a rounded result mean nothing.
pub fn narrowing_cases() -> Vec<Case> {
    [DType::Bf16, DType::F16].into_iter().flat_map(to).collect()
}

/// A map of the U-Net's first level from every type to every type.
pub fn bench_cases() -> Vec<Case> {
    let of = |to| Case::normal(&format!("cast to {to}"), Cast { to }, &[&[2, 128, 128, 320]]);
    [DType::F32, DType::Bf16, DType::F16].map(of).into()
}
