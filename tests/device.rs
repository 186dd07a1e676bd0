//! The device room on the emulated driver: tensor maps, graphs, events, pinned memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "emulate")]

use selvedge::{
    device::{Cuda, Schedule, TensorMapSpec},
    tensor::DType,
};
use std::sync::Arc;

fn emulated() -> Arc<Cuda> {
    Cuda::emulated(Schedule::Early).unwrap()
}

/// A map of a (64, 128) bf16 tensor in boxes of (32, 64) elements, 128 bytes a row.
fn matrix(address: u64) -> TensorMapSpec {
    TensorMapSpec {
        what: "x",
        address,
        dtype: DType::Bf16,
        dims: vec![128, 64],
        strides: vec![256],
        block: vec![64, 32],
        swizzle: 128,
    }
}

#[test]
fn a_tensor_map_the_hardware_cannot_use_is_named() {
    let cuda = emulated();
    let memory = cuda.alloc(64 * 256).unwrap();
    type Change = fn(&mut TensorMapSpec);
    let wrong: [(Change, &str); 11] = [
        (|m| m.address += 8, "no multiple of 16"),
        (|m| m.strides = vec![250], "a stride of 250 bytes"),
        (|m| m.strides = vec![], "2 dims, 0 strides"),
        (|m| m.block = vec![64, 257], "a block extent of 257"),
        (|m| m.block = vec![4, 32], "block rows of 8 bytes"),
        (|m| m.block = vec![128, 32], "at most 128, the swizzle pattern"),
        (|m| m.block = vec![64], "a block of 1 extents"),
        (|m| m.dims = vec![128, 0], "an extent of 0"),
        (|m| m.dims = vec![128, 65], "outside every live allocation"),
        (|m| m.swizzle = 48, "block rows of 128 bytes, expected at most 48"),
        (|m| (m.dims, m.strides, m.block) = (vec![1; 6], vec![16; 5], vec![1; 6]), "6 dims"),
    ];
    for (change, expected) in wrong {
        let mut map = matrix(memory.address());
        change(&mut map);
        let error = cuda.tensor_map(&map).unwrap_err().to_string();
        assert!(error.starts_with("plan: tensor map of x") && error.contains(expected), "{error}");
    }
}
