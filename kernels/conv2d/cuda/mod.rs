//! Choice and launch of the kernels; one file for each family of variants.

mod simt;
mod sums;

use super::Shape;
use crate::{
    device::{Cuda, Target},
    error::{Error, Result},
    kernels::variant::{Variant, choose},
    op::{Backward, Forward},
    tensor::{DType, Spec},
};

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    dtype: DType,
    target: Target,
    shape: Shape,
}

/// Output pixels.
pub(super) const FORWARD: &[Variant<Problem>] = &[Variant { name: "simt", applies: |_| true }];
/// Gradient of the image.
pub(super) const DATA: &[Variant<Problem>] = &[Variant { name: "simt", applies: |_| true }];
/// Gradient of the weight.
pub(super) const WEIGHT: &[Variant<Problem>] = &[Variant { name: "simt", applies: |_| true }];

/// The variant of each pass, by its slot.
fn pick(cuda: &Cuda, slot: &'static str, p: &Problem) -> Result<&'static str> {
    let rows = match slot {
        "conv2d.forward" => FORWARD,
        "conv2d.data" => DATA,
        _ => WEIGHT,
    };
    Ok(choose(cuda, slot, rows, p)?.name)
}

/// The shape as `gather.cuh` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
struct ShapeArgs {
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
fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::NoKernel {
        op: "conv2d",
        key: format!("an extent of {n}"),
        tried: "extents below 2^31; use a smaller batch".into(),
    })
}

impl ShapeArgs {
    fn new(s: &Shape) -> Result<Self> {
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
struct Specs<'a> {
    x: &'a Spec,
    w: &'a Spec,
    y: &'a Spec,
}

impl<'a> Specs<'a> {
    fn new(ins: &'a [Spec], y: &'a Spec) -> Self {
        Self { x: &ins[0], w: &ins[1], y }
    }
}

fn problem(cuda: &Cuda, s: &Shape, x: &Spec) -> Problem {
    Problem { dtype: x.dtype, target: cuda.target(), shape: *s }
}

/// Scratch of backward in the most demanding variant, bytes.
pub(super) fn backward_scratch(s: &Shape) -> usize {
    simt::weight_scratch(s).max(sums::columns_scratch(s))
}

pub(super) fn forward(s: &Shape, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    if io.out_spec.is_empty() {
        return Ok(());
    }
    let p = problem(cuda, s, &io.specs[0]);
    match pick(cuda, "conv2d.forward", &p)? {
        _ => simt::forward(s, cuda, io),
    }
}

pub(super) fn backward(s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let p = problem(cuda, s, &io.specs[0]);
    if io.d_ins[0].wanted() && !io.specs[0].is_empty() {
        match pick(cuda, "conv2d.data", &p)? {
            _ => simt::data(s, cuda, io)?,
        }
    }
    if io.d_ins[1].wanted() && !io.specs[1].is_empty() {
        match pick(cuda, "conv2d.weight", &p)? {
            _ => simt::weight(s, cuda, io)?,
        }
    }
    if io.d_ins.get(2).is_some_and(|g| g.wanted()) && !io.specs[2].is_empty() {
        sums::bias(s, cuda, io)?;
    }
    Ok(())
}

/// The chosen variants for the printed plan.
pub(super) fn describe(cuda: &Cuda, s: &Shape, x: &Spec, backward: bool) -> String {
    let p = problem(cuda, s, x);
    let name = |slot| pick(cuda, slot, &p).unwrap_or("none");
    match backward {
        false => name("conv2d.forward").into(),
        true => format!("data {} weight {}", name("conv2d.data"), name("conv2d.weight")),
    }
}
