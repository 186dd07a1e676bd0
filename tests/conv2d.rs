//! The convolution's kernels on the emulated driver: every case in every element type.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule},
    kernels::{
        case::Case,
        compare::{Outcome, compare},
        conv2d::cases,
    },
    tensor::DType,
};
use std::sync::Arc;

/// Compares every case of at least so many image or output channels; the number of them.
fn agree(cuda: &Arc<Cuda>, dtype: DType, channels: usize) -> usize {
    let mut wrong = vec![];
    let wide = |c: &Case| c.ins[1].dims[0].max(c.ins[1].dims[3]) >= channels;
    let cases: Vec<_> = cases::cases().into_iter().filter(wide).collect();
    for case in &cases {
        match compare(case, dtype, cuda).unwrap() {
            Outcome::Agrees { .. } => {}
            other => wrong.push(format!("{dtype} {}: {other:?}", case.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    cases.len()
}

/// Cases by these variants; where one does not apply, the best that does.
fn agree_forced(forced: &[(&str, &str)], dtypes: &[DType], channels: usize) {
    let cuda = Cuda::emulated(Schedule::Random(9)).unwrap();
    for (slot, name) in forced {
        cuda.force_variant(slot, name);
    }
    for dtype in dtypes {
        assert!(agree(&cuda, *dtype, channels) > 5);
    }
}

#[test]
fn every_hopper_tile_agrees() {
    for tile in ["sm90_256x160", "sm90_256x128", "sm90_128x160"] {
        let mut forced = vec![("conv2d.forward", tile), ("conv2d.data", tile)];
        if tile != "sm90_256x128" {
            forced.push(("conv2d.weight", tile));
        }
        agree_forced(&forced, &[DType::Bf16, DType::F16], 64);
    }
}

#[test]
fn the_ampere_kernels_agree_where_hoppers_apply() {
    let wide = "sm80_n128";
    let forced = [("conv2d.forward", wide), ("conv2d.data", wide), ("conv2d.weight", wide)];
    agree_forced(&forced, &[DType::Bf16, DType::F16], 1);
}

#[test]
fn the_generic_kernels_agree_in_16_bits() {
    agree_forced(&[("conv2d", "simt")], &[DType::Bf16, DType::F16], 1);
}

#[test]
fn every_shape_agrees_with_the_cpu_in_every_type() {
    let cuda = Cuda::emulated(Schedule::Random(5)).unwrap();
    for dtype in [DType::F32, DType::Bf16, DType::F16] {
        assert!(agree(&cuda, dtype, 0) >= 20);
    }
}
