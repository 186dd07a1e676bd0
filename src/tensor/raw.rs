//! Tensors as they lie in files, in memory.

use super::{
    Tensor,
    widen::{element_bytes, widen},
};
use half::{bf16, f16};
use safetensors::Dtype;

/// A tensor as it lies in a file: type, shape and bits, for copies that must be exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub dims: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

impl Raw {
    /// `data` as f32 elements of `dims`.
    pub fn f32(dims: &[usize], data: &[f32]) -> Self {
        Self { dtype: Dtype::F32, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// `data` rounded to `dtype` (F32, F16 or BF16; anything else stays F32).
    pub fn rounded(dims: &[usize], data: &[f32], dtype: Dtype) -> Self {
        let bytes = match dtype {
            Dtype::F16 => {
                let v: Vec<f16> = data.iter().map(|x| f16::from_f32(*x)).collect();
                bytemuck::cast_slice(&v).to_vec()
            }
            Dtype::BF16 => {
                let v: Vec<bf16> = data.iter().map(|x| bf16::from_f32(*x)).collect();
                bytemuck::cast_slice(&v).to_vec()
            }
            _ => return Self::f32(dims, data),
        };
        Self { dtype, dims: dims.to_vec(), bytes }
    }

    /// `data` as i32 elements of `dims`.
    pub fn i32(dims: &[usize], data: &[i32]) -> Self {
        Self { dtype: Dtype::I32, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// `data` as i64 elements of `dims`.
    pub fn i64(dims: &[usize], data: &[i64]) -> Self {
        Self { dtype: Dtype::I64, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// The values as f32; `None` unless the type is F32, F16 or BF16 and the byte count fits.
    pub fn to_tensor(&self) -> Option<Tensor> {
        Tensor::new(&self.dims, floats(self.dtype, &self.bytes)?)
    }
}

/// F32, F16 or BF16 bytes as f32.
pub(super) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let mut out = vec![0.0; bytes.len() / element_bytes(dtype)?];
    widen(dtype, &bytes[..out.len() * element_bytes(dtype)?], &mut out);
    Some(out)
}
