//! Choice and launch of the kernels; one file for each family of variants.

mod gather;
mod problem;
mod sm90;
mod sums;
mod taps;
mod tilings;

use self::problem::{NARROW, Pass, Problem};
use super::shape::Shape;
use crate::{
    device::{Cuda, Touched, cubin_table::Target},
    error::Result,
    kernels::variant::{Slot, Variant, by_dtype, choose},
    op::{Backward, Forward},
    tensor::{DType, Spec},
};

/// Output pixels.
const FORWARD: &[Variant<Problem>] = &[
    Variant { name: "sm90_256x160", applies: |p| sm90::able(Pass::Forward, p) },
    Variant { name: "sm90_256x128", applies: |p| sm90::able(Pass::Forward, p) },
    Variant { name: "sm90_128x160", applies: |p| sm90::able(Pass::Forward, p) },
    Variant { name: "sm80_n32", applies: |p| p.ampere(false) && p.shape.o <= NARROW },
    Variant { name: "sm80_n128", applies: |p| p.ampere(false) },
    Variant { name: "simt", applies: |_| true },
];
/// Gradient of the image.
const DATA: &[Variant<Problem>] = &[
    Variant { name: "sm90_256x160", applies: |p| sm90::able(Pass::Data, p) },
    Variant { name: "sm90_256x128", applies: |p| sm90::able(Pass::Data, p) },
    Variant { name: "sm90_128x160", applies: |p| sm90::able(Pass::Data, p) },
    Variant { name: "sm80_n32", applies: |p| p.ampere(true) && p.shape.c <= NARROW },
    Variant { name: "sm80_n128", applies: |p| p.ampere(true) },
    Variant { name: "simt", applies: |_| true },
];
/// Gradient of the weight.
const WEIGHT: &[Variant<Problem>] = &[
    Variant { name: "sm90_256x160", applies: |p| sm90::able(Pass::Weight, p) },
    Variant { name: "sm90_128x160", applies: |p| sm90::able(Pass::Weight, p) },
    Variant { name: "sm80_n128", applies: |p| p.ampere(true) },
    Variant { name: "simt", applies: |_| true },
];

const SLOT_FORWARD: &str = "conv2d.forward";
const SLOT_DATA: &str = "conv2d.data";
const SLOT_WEIGHT: &str = "conv2d.weight";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    let weight = Slot::of(SLOT_WEIGHT, WEIGHT);
    vec![Slot::of(SLOT_FORWARD, FORWARD), Slot::of(SLOT_DATA, DATA), weight]
}

impl Pass {
    /// The first variant that applies or the forced one; of the Hopper tiles the fastest as predicted.
    fn variant(self, cuda: &Cuda, p: &Problem) -> Result<&'static str> {
        let (slot, rows) = match self {
            Pass::Forward => (SLOT_FORWARD, FORWARD),
            Pass::Data => (SLOT_DATA, DATA),
            Pass::Weight => (SLOT_WEIGHT, WEIGHT),
        };
        let first = choose(cuda, slot, rows, p)?.name;
        if cuda.forced_variant(slot).is_some_and(|name| name == first) {
            return Ok(first);
        }
        match tilings::named(first) {
            Some(tile) => Ok(tilings::best(self, &p.shape).unwrap_or(tile).name),
            None => Ok(first),
        }
    }

    /// The kernel of a variant that gathers.
    fn symbol(self, variant: &str, dtype: DType) -> &'static str {
        let symbols = match (self, variant) {
            (Pass::Forward, "sm80_n32") => {
                ["", "conv2d_forward_sm80_n32_bf16", "conv2d_forward_sm80_n32_f16"]
            }
            (Pass::Forward, "sm80_n128") => {
                ["", "conv2d_forward_sm80_n128_bf16", "conv2d_forward_sm80_n128_f16"]
            }
            (Pass::Forward, _) => {
                ["conv2d_forward_f32", "conv2d_forward_bf16", "conv2d_forward_f16"]
            }
            (Pass::Data, "sm80_n32") => {
                ["", "conv2d_data_sm80_n32_bf16", "conv2d_data_sm80_n32_f16"]
            }
            (Pass::Data, "sm80_n128") => {
                ["", "conv2d_data_sm80_n128_bf16", "conv2d_data_sm80_n128_f16"]
            }
            (Pass::Data, _) => ["conv2d_data_f32", "conv2d_data_bf16", "conv2d_data_f16"],
            (Pass::Weight, "sm80_n128") => {
                ["", "conv2d_weight_sm80_n128_bf16", "conv2d_weight_sm80_n128_f16"]
            }
            (Pass::Weight, _) => ["conv2d_weight_f32", "conv2d_weight_bf16", "conv2d_weight_f16"],
        };
        by_dtype(dtype, symbols)
    }
}

/// The Hopper kernels may compute a pass of `s` on some chip.
fn able(pass: Pass, s: &Shape, dtype: DType) -> bool {
    sm90::able(pass, &Problem { dtype, target: Target::Sm90a, shape: *s })
}

/// Scratch of forward in the most demanding variant, bytes.
pub(super) fn forward_scratch(s: &Shape, dtype: DType) -> usize {
    match able(Pass::Forward, s, dtype) {
        true => tilings::scratch_bytes(Pass::Forward, s),
        false => 0,
    }
}

/// Scratch of backward in the most demanding variant, bytes.
pub(super) fn backward_scratch(s: &Shape, dtype: DType) -> usize {
    let hopper = [Pass::Data, Pass::Weight].into_iter().filter(|p| able(*p, s, dtype));
    let hopper = hopper.map(|p| tilings::scratch_bytes(p, s)).max().unwrap_or(0);
    hopper.max(gather::weight_scratch(s)).max(sums::columns_scratch(s))
}

/// `shifts`, where they are there, are added to every pixel of their image.
pub(super) fn forward(
    s: &Shape,
    cuda: &Cuda,
    io: &Forward<'_>,
    shifts: Option<Touched>,
) -> Result<()> {
    if io.out_spec.is_empty() {
        return Ok(());
    }
    let p = Problem::new(cuda, s, &io.specs[0]);
    let variant = Pass::Forward.variant(cuda, &p)?;
    match tilings::named(variant) {
        Some(tile) => sm90::forward(tile, s, cuda, io, shifts),
        None => gather::forward(Pass::Forward.symbol(variant, p.dtype), s, cuda, io, shifts),
    }
}

pub(super) fn backward(s: &Shape, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let p = Problem::new(cuda, s, &io.specs[0]);
    if io.d_ins[0].wanted() && !io.specs[0].is_empty() {
        let variant = Pass::Data.variant(cuda, &p)?;
        match tilings::named(variant) {
            Some(tile) => sm90::data(tile, s, cuda, io)?,
            None => gather::data(Pass::Data.symbol(variant, p.dtype), s, cuda, io)?,
        }
    }
    if io.d_ins[1].wanted() && !io.specs[1].is_empty() {
        let variant = Pass::Weight.variant(cuda, &p)?;
        match tilings::named(variant) {
            Some(tile) => sm90::weight(tile, s, cuda, io)?,
            None => gather::weight(Pass::Weight.symbol(variant, p.dtype), s, cuda, io)?,
        }
    }
    if io.d_ins.get(2).is_some_and(|g| g.wanted()) && !io.specs[2].is_empty() {
        sums::bias(s, cuda, io)?;
    }
    Ok(())
}

/// The chosen variants for the printed plan.
pub(super) fn describe(cuda: &Cuda, s: &Shape, x: &Spec, backward: bool) -> String {
    let p = Problem::new(cuda, s, x);
    let name = |pass: Pass| pass.variant(cuda, &p).unwrap_or("none");
    match backward {
        false => name(Pass::Forward).into(),
        true => format!("data {} weight {}", name(Pass::Data), name(Pass::Weight)),
    }
}
