//! The CPU: a safe matrix product over the `gemm-f32` crate.

mod arena;
mod matmul;

pub use arena::{ALIGN_BYTES, HostArena, available_bytes};
pub use matmul::{Mat, MatMut, Threads, matmul};
