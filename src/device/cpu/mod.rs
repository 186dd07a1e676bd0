//! The CPU: a safe matrix product over the `gemm-f32` crate.

mod arena;
mod matmul;
mod reduce;
mod rows;
mod vector;

pub use arena::{ALIGN_BYTES, HostArena, available_bytes};
pub use matmul::{Mat, MatMut, Threads, matmul};
pub use reduce::{max, sum, sum2};
pub use rows::{add_row_sums, fill_rows};
pub use vector::{CHUNK_LEN, erf, exp, for_chunks, sigmoid, wide};
