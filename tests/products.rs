//! Every variant of the matrix products, forced, against the CPU on the emulated driver.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        case::Case,
        compare::{Outcome, compare},
        linear, lora_linear,
    },
    tensor::DType,
};

const TYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F16];

fn cases() -> Vec<Case> {
    [linear::cases::cases(), lora_linear::cases::cases()].concat()
}

/// Compares the cases with `variant` wherever it applies.
fn check(variant: &str, schedule: Schedule, types: &[DType]) {
    let cuda = Cuda::emulated(schedule).unwrap();
    cuda.force_variant("linear", variant);
    let mut wrong = vec![];
    for dtype in types {
        for case in cases() {
            match compare(&case, *dtype, &cuda).unwrap() {
                Outcome::Agrees { worst } => println!("{dtype} {}: {worst:.2}", case.name),
                Outcome::Differs { problem } => {
                    wrong.push(format!("{dtype} {}: {problem}", case.name));
                }
                Outcome::NoKernel => wrong.push(format!("{dtype} {}: no kernel", case.name)),
            }
        }
    }
    assert!(wrong.is_empty(), "{variant} {schedule:?}:\n{}", wrong.join("\n"));
}

#[test]
fn simt_agrees_with_the_cpu() {
    check("simt", Schedule::Early, &TYPES);
    check("simt", Schedule::Random(5), &[DType::F32]);
}

#[test]
fn sm80_agrees_with_the_cpu_where_it_applies() {
    for variant in ["sm80_128", "sm80_64"] {
        check(variant, Schedule::Late, &TYPES[1..]);
    }
    check("sm80_64", Schedule::Random(3), &[DType::Bf16]);
}

#[test]
fn sm90_agrees_with_the_cpu_where_it_applies() {
    let wide = ["sm90_256x160", "sm90_128x256", "sm90_128x160", "sm90_128x160_ping"];
    let narrow = ["sm90_skinny32", "sm90_skinny64", "sm90_skinny128"];
    for (i, variant) in [&wide[..], &narrow[..]].concat().into_iter().enumerate() {
        check(variant, Schedule::Early, &TYPES[1..]);
        let other = if i % 2 == 0 { Schedule::Late } else { Schedule::Random(9) };
        check(variant, other, &[DType::Bf16]);
    }
}
