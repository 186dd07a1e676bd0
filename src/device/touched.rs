//! What a launch reads and writes.

use crate::tensor::Spec;

/// A range of device memory that a kernel reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Touched {
    /// Operand name for messages.
    pub what: &'static str,
    /// Start.
    pub address: u64,
    /// Length the kernel will touch, from the shapes.
    pub bytes: usize,
}

impl Touched {
    /// All of a value of `spec` at `address`.
    pub fn new(what: &'static str, address: u64, spec: &Spec) -> Self {
        Self { what, address, bytes: spec.bytes() }
    }
}
