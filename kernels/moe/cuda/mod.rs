//! Launches of the four operations.

pub(super) mod combine;
pub(super) mod experts;
pub(super) mod permute;
pub(super) mod route;

use crate::error::{Error, Result};

/// `MaxExperts` of `routing.cuh`: a bit each in a mask of 64.
const MAX_EXPERTS: usize = 64;

/// `n` as an extent of an argument struct.
fn int(op: &'static str, n: usize) -> Result<i32> {
    Ok(crate::kernels::elementwise::extent(op, n)?.cast_signed())
}

/// Refuses more experts than the kernels' masks hold.
fn check_experts(op: &'static str, experts: usize) -> Result<()> {
    if experts <= MAX_EXPERTS {
        return Ok(());
    }
    let (key, tried) = (format!("{experts} experts"), format!("up to {MAX_EXPERTS}"));
    Err(Error::NoKernel { op, key, tried })
}
