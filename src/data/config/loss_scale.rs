//! `train.loss_scale`: by what the loss of a run in f16 is multiplied.

use crate::{
    error::{Error, Result},
    kernels::adamw::Scaling,
    tensor::DType,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;

/// By what the loss is multiplied before its gradient is taken, so that f16 can hold the small numbers of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum LossScale {
    /// Dynamic in f16, no scale in f32 and bf16.
    #[default]
    Auto,
    /// As [`Scaling::DYNAMIC`]; f16 only.
    Dynamic,
    /// Always this power of two; f16 only.
    Fixed(f64),
}

const WORDS: &str = "\"auto\", \"dynamic\" or a power of two for train.loss_scale";

impl LossScale {
    /// Refuses a number that no scale can be.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(super) fn check(self) -> Result<()> {
        let LossScale::Fixed(scale) = self else { return Ok(()) };
        let exponent = if scale > 0.0 { scale.log2() } else { f64::NAN };
        match exponent.fract() == 0.0 && (-10.0..=40.0).contains(&exponent) {
            true => Ok(()),
            false => Err(Error::Config {
                key: "train.loss_scale".into(),
                found: scale.to_string(),
                expected: "a power of two from 2^-10 to 2^40, which rounds nothing".into(),
                fix: "for example 1024, or \"dynamic\"".into(),
            }),
        }
    }

    /// How a run in `dtype` scales its loss.
    ///
    /// # Errors
    /// [`Error::Config`] for a scale in f32 or bf16, where nothing would be gained.
    pub fn scaling(self, dtype: DType) -> Result<Option<Scaling>> {
        let scaling = match self {
            LossScale::Auto if dtype == DType::F16 => Some(Scaling::DYNAMIC),
            LossScale::Auto => None,
            LossScale::Dynamic => Some(Scaling::DYNAMIC),
            LossScale::Fixed(scale) => Some(Scaling::fixed(scale as f32)),
        };
        if scaling.is_some() && dtype != DType::F16 {
            return Err(Error::Config {
                key: "train.loss_scale".into(),
                found: format!("{self} in {dtype}"),
                expected: "a loss scale in f16 only: f32 and bf16 hold small gradients".into(),
                fix: "leave it out, or add --dtype f16".into(),
            });
        }
        Ok(scaling)
    }
}

impl fmt::Display for LossScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LossScale::Auto => f.write_str("auto"),
            LossScale::Dynamic => f.write_str("dynamic"),
            LossScale::Fixed(scale) => write!(f, "{scale}"),
        }
    }
}

impl Serialize for LossScale {
    fn serialize<S: Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            LossScale::Fixed(scale) => s.serialize_f64(*scale),
            word => s.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for LossScale {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        d.deserialize_any(WordOrNumber)
    }
}

struct WordOrNumber;

impl de::Visitor<'_> for WordOrNumber {
    type Value = LossScale;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WORDS)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> std::result::Result<LossScale, E> {
        match word {
            "auto" => Ok(LossScale::Auto),
            "dynamic" => Ok(LossScale::Dynamic),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }

    fn visit_i64<E>(self, scale: i64) -> std::result::Result<LossScale, E> {
        Ok(LossScale::Fixed(scale as f64))
    }

    fn visit_f64<E>(self, scale: f64) -> std::result::Result<LossScale, E> {
        Ok(LossScale::Fixed(scale))
    }
}
