//! The convolution's kernels on the emulated driver: every case in every element type.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        compare::{Outcome, compare},
        conv2d::cases,
    },
    tensor::DType,
};

/// Compares every case whose name contains `part`; the number of them.
fn agree(cuda: &std::sync::Arc<Cuda>, dtype: DType, part: &str) -> usize {
    let mut wrong = vec![];
    let cases: Vec<_> = cases::cases().into_iter().filter(|c| c.name.contains(part)).collect();
    for case in &cases {
        match compare(case, dtype, cuda).unwrap() {
            Outcome::Agrees { .. } => {}
            other => wrong.push(format!("{dtype} {}: {other:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cases.len()
}

#[test]
fn every_shape_agrees_with_the_cpu_in_every_type() {
    let cuda = Cuda::emulated(Schedule::Random(5)).unwrap();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        assert!(agree(&cuda, dtype, "") >= 20);
    }
}
