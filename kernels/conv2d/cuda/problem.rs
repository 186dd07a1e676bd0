//! What a launch of a convolution is: passes, operands, extents as the kernels count them.

use super::super::shape::Shape;
use crate::{
    device::{Cuda, cubin_table::Target},
    error::{Error, Result},
    tensor::{DType, Spec},
};

/// Channels (of dw: pixels) of a slab of the Hopper kernels.
pub(super) const SLAB: usize = 64;

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    pub dtype: DType,
    pub target: Target,
    pub shape: Shape,
}

impl Problem {
    pub fn new(cuda: &Cuda, s: &Shape, x: &Spec) -> Self {
        Self { dtype: x.dtype, target: cuda.target(), shape: *s }
    }

    /// 16-byte copies of a tensor core's operands; of `dy` and the weight's columns only backward.
    pub fn ampere(&self, backward: bool) -> bool {
        let whole = |channels: usize| channels.is_multiple_of(8);
        self.dtype != DType::F32 && whole(self.shape.c) && (!backward || whole(self.shape.o))
    }

    /// A type and a chip with `wgmma`.
    pub fn hopper(&self) -> bool {
        self.dtype != DType::F32 && matches!(self.target, Target::Sm90a | Target::Host)
    }
}

/// Columns of the narrow tile.
pub(super) const NARROW: usize = 32;

/// The passes with variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    Data,
    Weight,
}

/// The shape as `gather.cuh` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct ShapeArgs {
    images: i32,
    h: i32,
    w: i32,
    c: i32,
    kh: i32,
    kw: i32,
    oh: i32,
    ow: i32,
    o: i32,
    stride: i32,
    top: i32,
    left: i32,
    zoom: i32,
}

/// `n` as the kernels count; they count pixels and reductions with 31 bits.
pub(super) fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "conv2d",
        key: format!("an extent of {n}"),
        tried: "extents below 2^31; use a smaller batch".into(),
    })
}

impl ShapeArgs {
    pub fn new(s: &Shape) -> Result<Self> {
        let enlarged = s.images.saturating_mul(s.h * s.zoom()).saturating_mul(s.w * s.zoom());
        int(enlarged.max(s.outputs()))?;
        let taps = s.taps().saturating_mul(s.zoom() * s.zoom());
        int(taps.saturating_mul(s.c.max(s.o)))?;
        Ok(Self {
            images: int(s.images)?,
            h: int(s.h)?,
            w: int(s.w)?,
            c: int(s.c)?,
            kh: int(s.kh)?,
            kw: int(s.kw)?,
            oh: int(s.oh)?,
            ow: int(s.ow)?,
            o: int(s.o)?,
            stride: int(s.stride)?,
            top: int(s.top)?,
            left: int(s.left)?,
            zoom: i32::from(s.upsample),
        })
    }
}

/// The specs of one call's operands.
pub(super) struct Specs<'a> {
    pub x: &'a Spec,
    pub w: &'a Spec,
    pub y: &'a Spec,
}

impl<'a> Specs<'a> {
    pub fn new(ins: &'a [Spec], y: &'a Spec) -> Self {
        Self { x: &ins[0], w: &ins[1], y }
    }
}
