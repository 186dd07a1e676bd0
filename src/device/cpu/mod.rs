//! The CPU: a safe matrix product over the `gemm-f32` crate.

mod matmul;

pub use matmul::{Mat, MatMut, Threads, matmul};
