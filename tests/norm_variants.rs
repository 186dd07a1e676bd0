//! Every variant of the normalisations agrees with the CPU, also where a better one would be chosen.
#![allow(clippy::unwrap_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        self,
        compare::{Outcome, compare},
    },
    tensor::DType,
};

#[test]
fn forced_variants_agree_with_the_cpu() {
    for (op, variant, order) in [
        ("group_norm", "vec", Schedule::Early),
        ("group_norm", "scalar", Schedule::Late),
        ("layer_norm", "warp_scalar", Schedule::Random(5)),
        ("layer_norm", "block", Schedule::Late),
    ] {
        let cuda = Cuda::emulated(order).unwrap();
        cuda.force_variant(op, variant);
        let own = |case: &kernels::case::Case| case.op.name() == op;
        for (i, case) in kernels::cases().iter().filter(|c| own(c)).enumerate() {
            let dtype = [DType::F32, DType::Bf16, DType::F16][i % 3];
            let outcome = compare(case, dtype, &cuda).unwrap();
            let agrees = matches!(outcome, Outcome::Agrees { .. });
            assert!(agrees, "{variant} {dtype} {}: {outcome:?}", case.name);
        }
    }
}
