//! One folder per operation: maths, shapes, contract, CPU reference, kernels, cases, notes.

pub mod adamw;
pub mod diffuse;
pub mod ema;
pub mod grad_norm;
pub mod loss;
pub mod posterior;

use crate::{device::Device, error::Error};

/// The error of an operation without a variant for `device`.
pub(crate) fn no_kernel(op: &'static str, device: &Device) -> Error {
    Error::NoKernel { op, key: device.name(), tried: "none for this device".into() }
}
