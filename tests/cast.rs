//! Conversions to 16-bit types on the emulated device against the CPU.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        cast::cases::narrowing_cases,
        compare::{Outcome, compare},
    },
    tensor::DType,
};

#[test]
fn narrowing_rounds_to_nearest_even_as_on_the_cpu() {
    let cuda = Cuda::emulated(Schedule::Early).unwrap();
    for case in narrowing_cases() {
        for from in [DType::F32, DType::Bf16, DType::F16] {
            let outcome = compare(&case, from, &cuda).unwrap();
            let Outcome::Agrees { worst } = outcome else { panic!("{}: {outcome:?}", case.name) };
            // A gradient in 16 bits is rounded on the device and not in the reference.
            assert!(from != DType::F32 || worst == 0.0, "{} from {from}: {worst}", case.name);
        }
    }
}
