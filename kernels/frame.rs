//! What every operation does first: the CPU's function in f32, or the device's.

use super::check;
use crate::{
    device::{Cuda, Device},
    error::Result,
    op::{Backward, Forward},
};

/// The forward pass of the operation `name`, where its operands lie.
///
/// # Errors
/// [`crate::error::Error::NoKernel`] for a type that the CPU does not compute in; the device's.
pub fn forward<'a>(
    name: &'static str,
    io: Forward<'a>,
    cpu: impl FnOnce(Forward<'a>),
    cuda: impl FnOnce(&Cuda, &Forward<'a>) -> Result<()>,
) -> Result<()> {
    match io.device {
        Device::Cpu => {
            check::cpu_dtype(name, io.out_spec.dtype)?;
            cpu(io);
            Ok(())
        }
        Device::Cuda(on) => cuda(on, &io),
    }
}

/// The backward pass, as [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward<'a>(
    name: &'static str,
    io: Backward<'a>,
    cpu: impl FnOnce(Backward<'a>),
    cuda: impl FnOnce(&Cuda, &Backward<'a>) -> Result<()>,
) -> Result<()> {
    match io.device {
        Device::Cpu => {
            check::cpu_dtype(name, io.out_spec.dtype)?;
            cpu(io);
            Ok(())
        }
        Device::Cuda(on) => cuda(on, &io),
    }
}
