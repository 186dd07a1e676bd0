//! Products of numbers rounded to bf16, summed in f32: on AMX tiles, or with AVX-512-BF16's dot products.
//!
//! Both read operands that are packed alike. Numbers below 1.2e-38 count as zero there.

mod block;
#[cfg(not(target_arch = "x86_64"))]
mod elsewhere;
#[cfg(target_arch = "x86_64")]
mod pack;
mod shape;
mod sum;
#[cfg(target_arch = "x86_64")]
mod tile;

#[cfg(not(target_arch = "x86_64"))]
use elsewhere as pack;
#[cfg(not(target_arch = "x86_64"))]
use elsewhere as tile;

use super::isa::Isa;
use crate::tensor::DType;

pub use block::{Packed, product};
pub use pack::{pack_columns, pack_rows};
pub use shape::{BLOCK, DEPTH, Form, STEP, steps};
pub use sum::{BLOCK_ROWS, BLOCK_SCRATCH, Shared, Side, Sum, sum_scratch};
#[cfg(target_arch = "x86_64")]
pub(super) use tile::tiles_are_granted;
pub use tile::{Session, Unit};

impl Unit {
    /// What multiplies with a right operand stored as `dtype`, with the instruction set in use; `None` where f32 products
    /// do, for which halves are widened.
    pub fn of(dtype: DType) -> Option<Self> {
        if dtype == DType::Bf16 { Isa::current().unit() } else { None }
    }
}

#[cfg(test)]
mod tests;
