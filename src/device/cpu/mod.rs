//! The CPU: matrix products, loops and reductions on host memory.

mod arena;
pub mod bf16;
mod columns;
mod elements;
mod isa;
mod lanes;
mod mat;
mod matmul;
mod outer;
mod pack;
mod product;
mod reduce;
mod rows;
mod share;
mod tile;
mod turned;
mod vector;

pub use arena::{ALIGN_BYTES, HostArena, OUT_OF_MEMORY_FIX, available_bytes};
pub use columns::{Term, by_columns, sum_columns, sum_columns_scratch};
pub use elements::Elements;
pub use isa::{ISA_VARIABLE, Isa};
pub use mat::{Mat, MatMut};
pub use matmul::{Threads, matmul, matmul_packed};
pub use outer::{Columns, OUTER_DEPTH, OUTER_SCRATCH_LEN, outer, outer_rows};
pub use pack::{Taps, Unpacked, pack, pack_here, packed_len};
pub use product::{Initial, Left, Out, Right, Rows, ZEROS, product};
pub use reduce::{max, sum, sum2};
pub use rows::{add_row_sums, fill_rows};
pub use share::{pieces, pool_size, share};
pub use turned::{TransposedTerm, by_transposed, sum_transposed, sum_transposed_scratch};
pub use vector::{CHUNK_LEN, erf, exp, for_chunks, sigmoid, wide};
