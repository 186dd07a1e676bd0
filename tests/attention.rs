//! Every variant of attention on the emulated device against the CPU.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        attention::{self, cases::cases},
        compare::{Outcome, compare},
    },
    tensor::DType,
};

/// Where a forced variant does not apply the best one runs, which is tested too.
fn agrees_when_forced(slot: &str, name: &str, dtype: DType) {
    let cuda = Cuda::emulated(Schedule::Random(5)).unwrap();
    cuda.force_variant(slot, name);
    for case in cases() {
        match compare(&case, dtype, &cuda).unwrap() {
            Outcome::Agrees { .. } => {}
            other => panic!("{slot}={name} {dtype}: {}: {other:?}", case.name),
        }
    }
}

#[test]
fn every_forward_variant_agrees_with_the_cpu() {
    for variant in attention::FORWARD {
        agrees_when_forced("attention.forward", variant.name, DType::Bf16);
    }
}

#[test]
fn every_backward_variant_agrees_with_the_cpu() {
    for variant in attention::BACKWARD {
        agrees_when_forced("attention.backward", variant.name, DType::F16);
    }
}
