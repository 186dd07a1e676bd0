//! Numbers of a right operand where they lie: f32, or halves that are widened while they are packed.

use super::bf16::Unit;
use crate::{device::Buf, tensor::DType};
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// Elements of a weight.
#[derive(Clone, Copy, Debug)]
pub enum Elements<'a> {
    /// 32 bits.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
    /// IEEE halves.
    F16(&'a [f16]),
}

impl<'a> Elements<'a> {
    /// The numbers of `buf`, stored as `dtype`.
    pub fn of(buf: Buf<'a>, dtype: DType) -> Self {
        match dtype {
            DType::Bf16 => Self::Bf16(bytemuck::cast_slice(buf.raw())),
            DType::F16 => Self::F16(bytemuck::cast_slice(buf.raw())),
            DType::F32 | DType::I32 => Self::F32(buf.f32()),
        }
    }

    /// None at all.
    pub fn none() -> Self {
        Self::F32(&[])
    }

    /// As f32, where they are.
    pub fn f32(self) -> Option<&'a [f32]> {
        if let Self::F32(data) = self { Some(data) } else { None }
    }

    /// What multiplies with them; `None` where they are, or are widened to, f32.
    pub fn unit(self) -> Option<Unit> {
        if let Self::Bf16(_) = self { Unit::of(DType::Bf16) } else { None }
    }

    /// Those from `at` on.
    pub fn from(self, at: usize) -> Self {
        match self {
            Self::F32(data) => Self::F32(&data[at..]),
            Self::Bf16(data) => Self::Bf16(&data[at..]),
            Self::F16(data) => Self::F16(&data[at..]),
        }
    }

    /// Element `at`.
    #[inline]
    pub(super) fn get(self, at: usize) -> f32 {
        match self {
            Self::F32(data) => data[at],
            Self::Bf16(data) => data[at].to_f32(),
            Self::F16(data) => data[at].to_f32(),
        }
    }

    /// Writes the elements from `at` on to `to`.
    #[inline]
    pub(super) fn widen(self, at: usize, to: &mut [f32]) {
        let len = to.len();
        match self {
            Self::F32(data) => to.copy_from_slice(&data[at..at + len]),
            Self::Bf16(data) => {
                let from = data[at..at + len].iter();
                to.iter_mut().zip(from).for_each(|(t, f)| *t = f.to_f32());
            }
            Self::F16(data) => data[at..at + len].convert_to_f32_slice(to),
        }
    }

    /// The address of element `at`, to ask memory for it.
    #[inline]
    pub(super) fn address(self, at: usize) -> *const f32 {
        match self {
            Self::F32(data) => data.as_ptr().wrapping_add(at),
            Self::Bf16(data) => data.as_ptr().wrapping_add(at).cast(),
            Self::F16(data) => data.as_ptr().wrapping_add(at).cast(),
        }
    }
}

impl<'a> From<&'a [f32]> for Elements<'a> {
    fn from(data: &'a [f32]) -> Self {
        Self::F32(data)
    }
}
