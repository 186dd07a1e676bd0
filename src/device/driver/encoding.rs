//! A tensor map as the driver writes it, and what it is made from.

use bytemuck::{Pod, Zeroable};
use std::ffi::c_uint;

/// An encoded map; a member of an argument struct, read there through `__grid_constant__`.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct TensorMap {
    words: [u64; 16],
}

/// The arguments of the driver's encoder.
#[derive(Debug)]
pub(crate) struct Encoding<'a> {
    pub dtype: c_uint,
    pub address: u64,
    pub dims: &'a [u64],
    pub strides: &'a [u64],
    pub block: &'a [u32],
    pub steps: &'a [u32],
    pub interleave: c_uint,
    pub swizzle: c_uint,
    pub promotion: c_uint,
    pub fill: c_uint,
}
