//! Tensor maps: how a bulk copy finds a box of a tensor in memory and lays it out in shared memory.

use super::{
    Cuda,
    driver::{Encoding, TensorMap},
};
use crate::{
    error::{Error, Result},
    tensor::DType,
};
use cudarc::driver::sys;
use std::ffi::c_uint;

/// What a map describes. Elements outside the tensor are read as zero and not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMapSpec {
    /// Operand name for messages.
    pub what: &'static str,
    /// Start of the tensor: a multiple of 16.
    pub address: u64,
    /// Element type.
    pub dtype: DType,
    /// Extents, innermost first; 1 to 5 of them.
    pub dims: Vec<u64>,
    /// Bytes from one index to the next in dims 1.. : one less than `dims`, multiples of 16.
    pub strides: Vec<u64>,
    /// Extents of the box that one copy moves, at most 256 each.
    pub block: Vec<u32>,
    /// Bytes of the swizzle pattern in shared memory: 0, 32, 64 or 128.
    pub swizzle: u32,
}

/// Largest extent of a box.
const MAX_BLOCK: u32 = 256;
const MAX_RANK: usize = 5;

impl TensorMapSpec {
    /// Checks everything the driver documents, so that a wrong map is named and not just refused.
    fn check(&self) -> Result<()> {
        let rank = self.dims.len();
        let size = self.dtype.size_bytes() as u64;
        if !(1..=MAX_RANK).contains(&rank)
            || self.strides.len() + 1 != rank
            || self.block.len() != rank
        {
            let (strides, block) = (self.strides.len(), self.block.len());
            return Err(self.bad(&format!(
                "{rank} dims, {strides} strides and a block of {block} extents; expected 1 to \
                 {MAX_RANK} dims, one stride less, as many block extents"
            )));
        }
        if !self.address.is_multiple_of(16) {
            return Err(self.bad(&format!("address {:#x} is no multiple of 16", self.address)));
        }
        if let Some(d) = self.dims.iter().find(|d| **d == 0 || **d > 1 << 32) {
            return Err(self.bad(&format!("an extent of {d}, expected 1 to 2^32")));
        }
        if let Some(s) =
            self.strides.iter().find(|s| **s == 0 || !s.is_multiple_of(16) || **s >= 1 << 40)
        {
            return Err(self.bad(&format!("a stride of {s} bytes, expected a multiple of 16")));
        }
        if let Some(b) = self.block.iter().find(|b| **b == 0 || **b > MAX_BLOCK) {
            return Err(self.bad(&format!("a block extent of {b}, expected 1 to {MAX_BLOCK}")));
        }
        let inner = u64::from(self.block[0]) * size;
        if !inner.is_multiple_of(16) {
            return Err(
                self.bad(&format!("block rows of {inner} bytes, expected a multiple of 16"))
            );
        }
        if self.swizzle != 0 && inner > u64::from(self.swizzle) {
            return Err(self.bad(&format!(
                "block rows of {inner} bytes, expected at most {}, the swizzle pattern",
                self.swizzle
            )));
        }
        Ok(())
    }

    /// Bytes from the start to the end of the last element.
    fn span(&self) -> Option<u64> {
        let mut last = (self.dims.first()? - 1).checked_mul(self.dtype.size_bytes() as u64)?;
        for (dim, stride) in self.dims[1..].iter().zip(&self.strides) {
            last = last.checked_add((dim - 1).checked_mul(*stride)?)?;
        }
        last.checked_add(self.dtype.size_bytes() as u64)
    }

    fn bad(&self, problem: &str) -> Error {
        Error::Plan { at: format!("tensor map of {}", self.what), problem: problem.into() }
    }
}

impl Cuda {
    /// Encodes a map; a few microseconds of host time, nothing on the device.
    ///
    /// # Errors
    /// [`Error::Plan`] for a map the hardware cannot use or a tensor outside the live allocations;
    /// [`Error::Driver`].
    pub fn tensor_map(&self, spec: &TensorMapSpec) -> Result<TensorMap> {
        use sys::CUtensorMapDataType_enum as T;
        use sys::CUtensorMapSwizzle_enum as S;
        spec.check()?;
        let span = spec.span().and_then(|n| usize::try_from(n).ok());
        let span = span.ok_or_else(|| spec.bad("its extents overflow"))?;
        self.inside(&format!("tensor map of {}", spec.what), spec.address, span)?;
        let swizzle = match spec.swizzle {
            0 => S::CU_TENSOR_MAP_SWIZZLE_NONE,
            32 => S::CU_TENSOR_MAP_SWIZZLE_32B,
            64 => S::CU_TENSOR_MAP_SWIZZLE_64B,
            128 => S::CU_TENSOR_MAP_SWIZZLE_128B,
            n => {
                return Err(spec.bad(&format!("a swizzle of {n} bytes, expected 0, 32, 64 or 128")));
            }
        };
        let dtype = match spec.dtype {
            DType::F32 => T::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
            DType::Bf16 => T::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => T::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::I32 => T::CU_TENSOR_MAP_DATA_TYPE_INT32,
        };
        self.make_current()?;
        self.driver.tensor_map(&Encoding {
            dtype: dtype as c_uint,
            address: spec.address,
            dims: &spec.dims,
            strides: &spec.strides,
            block: &spec.block,
            steps: &[1; MAX_RANK][..spec.dims.len()],
            interleave: sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE as c_uint,
            swizzle: swizzle as c_uint,
            // A box row is at most 256 bytes: what the neighbouring box reads is fetched with it.
            promotion: sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B
                as c_uint,
            fill: sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE as c_uint,
        })
    }
}
