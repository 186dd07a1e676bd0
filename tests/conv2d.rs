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

/// All cases by these variants; where one does not apply, the best that does.
fn agree_forced(forced: &[(&str, &str)], dtypes: &[DType]) {
    let cuda = Cuda::emulated(Schedule::Random(9)).unwrap();
    for (slot, name) in forced {
        cuda.force_variant(slot, name);
    }
    for dtype in dtypes {
        agree(&cuda, *dtype, "");
    }
}

#[test]
fn the_generic_kernels_agree_in_16_bits() {
    agree_forced(&[("conv2d", "simt")], &[DType::Bf16, DType::F16]);
}

#[test]
fn the_wide_ampere_kernels_agree() {
    let wide = "sm80_n128";
    agree_forced(&[("conv2d.forward", wide), ("conv2d.data", wide)], &[DType::Bf16, DType::F16]);
}

#[test]
fn every_shape_agrees_with_the_cpu_in_every_type() {
    let cuda = Cuda::emulated(Schedule::Random(5)).unwrap();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        assert!(agree(&cuda, dtype, "") >= 20);
    }
}
