//! Launches of the four operations.

pub(super) mod combine;
pub(super) mod experts;
pub(super) mod permute;
pub(super) mod products;
pub(super) mod route;
mod tensor;

use crate::error::Result;

/// `n` as an extent of an argument struct.
fn int(op: &'static str, n: usize) -> Result<i32> {
    Ok(crate::kernels::elementwise::extent(op, n)?.cast_signed())
}
