//! Runs a case on a CUDA device and on the CPU and compares every result.
//!
//! Outputs start as NaN, every device buffer lies between guard bands, gradients are asked for together,
//! added to old content and one at a time, and the device runs everything twice.
//!
//! The rule: a result may differ from the CPU's (f32, on the same rounded inputs) by twice the error that
//! rounding the inputs to the storage type causes, measured on the CPU as the largest change of the tensor,
//! plus 2 units in the last place of the storage type. For f32, whose inputs are not rounded, the inputs are
//! moved by half a unit in the last place on average; there the accumulator's own rounding is as large as the
//! inputs', so the measured error counts `1 + sqrt(depth) / 2` times, `depth` being the multiply-adds of one
//! result: a sum of n terms in another order is apart by about `sqrt(n) / 2` roundings of its terms.

mod ahead;
mod call;

use super::case::Case;
use crate::{
    device::Cuda,
    error::{Error, Result},
    tensor::{DType, Spec, philox},
};
pub use ahead::for_each_reference;
use call::{Call, Results, Runner};
use rayon::prelude::*;
use std::sync::Arc;

/// Units in the last place of the storage type that any result may be off.
pub const TOLERANCE_ULP: f64 = 2.0;

/// What came out for one case.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Every result agrees.
    Agrees {
        /// The largest error in units of what the rule allows there; 0 when all are bit-equal.
        worst: f64,
    },
    /// A result is wrong.
    Differs {
        /// Which result, where, by how much.
        problem: String,
    },
    /// The operation's folder says that there is a kernel ([`crate::op::Op::types`]), and the device has none.
    Missing {
        /// Which kernel, for what.
        problem: String,
    },
    /// The operation does not exist in this element type.
    OtherType,
}

/// The CPU's results of one case for some element types: what the device is compared with, and how far rounding
/// the inputs moves it.
///
/// One run serves several types: the values before rounding to bf16 or f16 are those of f32.
pub struct Reference<'a> {
    case: &'a Case,
    plain: Results,
    rounded: Vec<(DType, Results)>,
}

impl<'a> Reference<'a> {
    /// Runs the case on the CPU as often as `dtypes` need, side by side.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn of(case: &'a Case, dtypes: &[DType]) -> Result<Self> {
        let mut wanted = vec![(Values::Rounded, DType::F32)];
        for dtype in dtypes.iter().filter(|d| exists(case, **d)) {
            // In f32 nothing is rounded, so the inputs are moved instead.
            let values = if *dtype == DType::F32 { Values::Unrounded } else { Values::Rounded };
            wanted.push((values, *dtype));
        }
        if wanted.len() == 1 {
            return Ok(Self { case, plain: vec![], rounded: vec![] });
        }
        let run = |(values, rounding): &(Values, DType)| {
            Call::new(case, *values, *rounding, DType::F32)?.run(&Runner::Host)
        };
        let mut runs = wanted.par_iter().map(run).collect::<Result<Vec<_>>>()?.into_iter();
        let plain = runs.next().unwrap_or_default();
        Ok(Self { case, plain, rounded: wanted[1..].iter().map(|(_, d)| *d).zip(runs).collect() })
    }

    /// Compares the device with the CPU with every float operand stored as `dtype`, one of [`Reference::of`]'s.
    ///
    /// # Errors
    /// Errors of the device; a difference is an [`Outcome`], not an error.
    pub fn compare(&self, dtype: DType, cuda: &Arc<Cuda>) -> Result<Outcome> {
        let Some((_, other)) = self.rounded.iter().find(|(d, _)| *d == dtype) else {
            return Ok(Outcome::OtherType);
        };
        let device = match Call::new(self.case, Values::Rounded, dtype, dtype) {
            Err(e @ (Error::DType { .. } | Error::NoKernel { .. })) => return Ok(missing(&e)),
            call => call?,
        };
        let first = match device.run(&Runner::Cuda(cuda.clone())) {
            Err(e @ Error::NoKernel { .. }) => return Ok(missing(&e)),
            first => first?,
        };
        let second = device.run(&Runner::Cuda(cuda.clone()))?;
        for (a, b) in first.iter().zip(&second) {
            if a.2 != b.2 {
                let problem = format!("{}: two runs on the device differ", a.0);
                return Ok(Outcome::Differs { problem });
            }
        }
        let (expected, moved) =
            if dtype == DType::F32 { (&self.plain, other) } else { (other, &self.plain) };
        let shapes = Call::new(self.case, Values::Rounded, dtype, DType::F32)?;
        let mut worst = 0.0f64;
        for (i, (what, stored, got)) in first.iter().enumerate() {
            let want = expected[i].1.decode(&expected[i].2);
            let depth = depth(&shapes, i > 0);
            let factor = if dtype == DType::F32 { 1.0 + depth.sqrt() / 2.0 } else { 1.0 };
            let rounding = largest_change(&want, &moved[i].1.decode(&moved[i].2));
            let allowed = Allowed { rounding: 2.0 * factor * rounding, dtype: *stored };
            match allowed.share(&stored.decode(got), &want) {
                Ok(share) => worst = worst.max(share),
                Err(problem) => {
                    return Ok(Outcome::Differs { problem: format!("{what}{problem}") });
                }
            }
        }
        Ok(Outcome::Agrees { worst })
    }
}

fn missing(e: &Error) -> Outcome {
    Outcome::Missing { problem: e.to_string() }
}

/// Whether the folder says that the operation of `case` exists in `dtype`.
pub fn exists(case: &Case, dtype: DType) -> bool {
    case.op.types().contains(&dtype)
}

/// Compares the device with the CPU with every float operand stored as `dtype`.
///
/// # Errors
/// Errors of the device; a difference is an [`Outcome`], not an error.
pub fn compare(case: &Case, dtype: DType, cuda: &Arc<Cuda>) -> Result<Outcome> {
    Reference::of(case, &[dtype])?.compare(dtype, cuda)
}

/// Asks [`Cuda::rehearsal`] for every kernel of `case` in `dtype`; what it lacks, or `None`.
///
/// # Errors
/// Errors of the device.
pub fn rehearse(case: &Case, dtype: DType, cuda: &Arc<Cuda>) -> Result<Option<String>> {
    let call = match Call::without_data(case, dtype) {
        Err(e @ (Error::DType { .. } | Error::NoKernel { .. })) => return Ok(Some(e.to_string())),
        call => call?,
    };
    match call.run(&Runner::Rehearsal(cuda.clone())) {
        Err(e @ Error::NoKernel { .. }) => Ok(Some(e.to_string())),
        run => run.map(|_| None),
    }
}

/// Multiply-adds of one result.
fn depth(call: &Call<'_>, backward: bool) -> f64 {
    let (op, out) = (&call.case.op, &call.signature.out);
    if !backward {
        return op.cost(&call.specs, out).flop / (2 * out.len().max(1)) as f64;
    }
    let wants = &call.case.grads;
    let wanted = call.specs.iter().zip(wants).filter(|(_, w)| **w).map(|(s, _)| s.len());
    let smallest = wanted.min().unwrap_or(1).max(1);
    op.backward_cost(&call.specs, out, wants).flop / (2 * smallest) as f64
}

/// What a result may be off.
struct Allowed {
    rounding: f64,
    dtype: DType,
}

impl Allowed {
    /// The largest error as a share of what is allowed, or where it is too large.
    fn share(&self, got: &[f32], want: &[f32]) -> std::result::Result<f64, String> {
        let mut worst = 0.0f64;
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            if g.to_bits() == w.to_bits() || g == w || (g.is_nan() && w.is_nan()) {
                continue;
            }
            let exact = self.dtype == DType::I32;
            let allowed =
                if exact { 0.0 } else { self.rounding + TOLERANCE_ULP * ulp(self.dtype, *w) };
            let error = f64::from(*g) - f64::from(*w);
            // A number beyond the storage type's range is stored as infinity, and rightly so.
            let overflow = g.is_infinite() && f64::from(w.abs()) + allowed >= largest(self.dtype);
            if overflow && g.is_sign_positive() == w.is_sign_positive() {
                continue;
            }
            if error.is_nan() || error.abs() > allowed {
                return Err(format!(
                    "[{i}]: found {g:e}, expected {w:e}, {:.2e} apart; allowed {allowed:.2e}",
                    error.abs()
                ));
            }
            worst = worst.max(error.abs() / allowed);
        }
        Ok(worst)
    }
}

/// The distance of the numbers of `dtype` around `x`.
fn ulp(dtype: DType, x: f32) -> f64 {
    let (digits, lowest) = match dtype {
        DType::Bf16 => (7, -126),
        DType::F16 => (10, -14),
        DType::F32 | DType::I32 => (23, -126),
    };
    let exponent = if x == 0.0 { lowest } else { f64::from(x.abs()).log2().floor() as i32 };
    2f64.powi(exponent.max(lowest) - digits)
}

fn largest(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 65504.0,
        _ => f64::from(f32::MAX) * (1.0 - 2f64.powi(-9)),
    }
}

/// The largest finite change between two results.
fn largest_change(a: &[f32], b: &[f32]) -> f64 {
    let change = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    change.filter(|d| d.is_finite()).fold(0.0, f64::max)
}

/// Which numbers a run gets.
#[derive(Clone, Copy, PartialEq)]
enum Values {
    /// As the storage type holds them.
    Rounded,
    /// As they were before that; for f32 moved by half a unit in the last place on average.
    Unrounded,
}

impl Values {
    fn of(self, rounding: DType, seed: u64, values: Vec<f32>) -> Vec<f32> {
        let mut random = philox::Stream::new(seed, 0x11);
        match (self, rounding) {
            (Values::Rounded, _) => rounding.decode(&rounding.encode(&values)),
            (Values::Unrounded, DType::F32) => (values.into_iter())
                .map(|v| if v != 0.0 && random.below(2) == 1 { nudged(v) } else { v })
                .collect(),
            (Values::Unrounded, _) => values,
        }
    }
}

/// The next smaller magnitude, so that no bound such as 1 is crossed.
fn nudged(v: f32) -> f32 {
    f32::from_bits(v.to_bits() - 1)
}

impl<'a> Call<'a> {
    /// The case with zeros for every number.
    fn without_data(case: &'a Case, dtype: DType) -> Result<Self> {
        let specs = case.specs(dtype);
        let signature = case.op.infer(&specs)?;
        let zeros = |s: &Spec| vec![0; s.bytes()];
        let state = (!case.state.is_empty()).then(|| signature.saved.iter().map(zeros).collect());
        // Fresh zeros twice, not a copy: only their lengths are looked at.
        let [inputs, old] = [(); 2].map(|()| specs.iter().map(zeros).collect());
        let d_out = zeros(&signature.out);
        Ok(Self { case, inputs, old, specs, signature, state, d_out })
    }

    /// The case with data rounded to `rounding`, run with every float stored as `dtype`.
    fn new(case: &'a Case, values: Values, rounding: DType, dtype: DType) -> Result<Self> {
        let float = |s: &Spec| s.dtype != DType::I32;
        let specs = case.specs(dtype);
        let signature = case.op.infer(&specs)?;
        let encode = |seed: u64, spec: &Spec, values_f32: Vec<f32>| {
            spec.dtype.encode(&values.of(rounding, seed, values_f32))
        };
        let inputs = (case.inputs(11).into_iter().zip(&specs).zip(0u64..))
            .map(|((b, s), i)| if float(s) { encode(i, s, DType::F32.decode(&b)) } else { b })
            .collect();
        let normal = |seed: u64, spec: &Spec| {
            let mut v = vec![0.0f32; spec.len()];
            philox::fill_normal(seed, 0, &mut v);
            encode(100 + seed, spec, v)
        };
        // State is f32 in every element type.
        let kept = |(bytes, i): (Vec<u8>, u64)| match rounding {
            DType::F32 => encode(200 + i, &Spec::f32(&[]), DType::F32.decode(&bytes)),
            _ => bytes,
        };
        let state = case.state(&signature.saved, 11);
        let state = state.map(|all| all.into_iter().zip(0u64..).map(kept).collect());
        let old = specs.iter().map(|s| normal(13, s)).collect();
        let d_out = normal(12, &signature.out);
        Ok(Self { case, specs, signature, inputs, state, d_out, old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_that_of_the_storage_type() {
        let next = |x: f32, n: u32| f32::from_bits(x.to_bits() + n);
        let allowed = Allowed { rounding: 0.0, dtype: DType::F32 };
        assert_eq!(allowed.share(&[1.0], &[next(1.0, 2)]), Ok(1.0));
        assert!(allowed.share(&[1.0], &[next(1.0, 3)]).is_err());
        assert!(allowed.share(&[f32::NAN], &[1.0]).is_err());
        assert_eq!(allowed.share(&[0.0], &[-0.0]), Ok(0.0));
        let half = Allowed { rounding: 0.0, dtype: DType::Bf16 };
        assert_eq!(half.share(&[1.0 + 2f32.powi(-6)], &[1.0]), Ok(1.0));
        assert!(half.share(&[1.0 + 2f32.powi(-6) * 1.1], &[1.0]).is_err());
    }

    #[test]
    fn integers_must_be_equal() {
        let allowed = Allowed { rounding: 1.0, dtype: DType::I32 };
        assert!(allowed.share(&[f32::from_bits(1)], &[f32::from_bits(2)]).is_err());
    }

    #[test]
    fn what_is_too_large_for_the_storage_type_may_be_infinite() {
        let allowed = Allowed { rounding: 0.0, dtype: DType::F16 };
        assert!(allowed.share(&[f32::INFINITY], &[70000.0]).is_ok());
        assert!(allowed.share(&[f32::INFINITY], &[-70000.0]).is_err());
        assert!(allowed.share(&[f32::INFINITY], &[60000.0]).is_err());
    }
}
