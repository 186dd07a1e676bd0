//! Checks that every `infer` needs, with one wording.

use crate::{
    error::{Error, Result},
    tensor::{DType, Spec},
};

fn count(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<()> {
    if ins.len() == names.len() {
        return Ok(());
    }
    let problem = format!("{} inputs, expected {}: {}", ins.len(), names.len(), names.join(", "));
    Err(Error::Plan { at: at.into(), problem })
}

/// `ins` has as many specs as `names`, all f32.
///
/// # Errors
/// [`Error::Plan`] for another count, [`Error::DType`] for another element type.
pub fn f32_inputs(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<()> {
    count(at, ins, names)?;
    match ins.iter().zip(names).find(|(s, _)| s.dtype != DType::F32) {
        Some((s, name)) => Err(Error::DType {
            at: format!("{at}: {name}"),
            got: s.dtype.to_string(),
            want: "f32".into(),
        }),
        None => Ok(()),
    }
}

/// `ins` has as many specs as `names`, all of one float type, which is returned.
///
/// # Errors
/// [`Error::Plan`] for another count, [`Error::DType`] for an integer or two float types.
pub fn float_inputs(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<DType> {
    count(at, ins, names)?;
    let first = ins.first().map_or(DType::F32, |s| s.dtype);
    let odd = |s: &Spec| s.dtype == DType::I32 || s.dtype != first;
    match ins.iter().zip(names).find(|(s, _)| odd(s)) {
        Some((s, name)) => Err(Error::DType {
            at: format!("{at}: {name}"),
            got: s.dtype.to_string(),
            want: match first {
                DType::I32 => "f32, bf16 or f16".into(),
                float => format!("{float}, as the first operand"),
            },
        }),
        None => Ok(first),
    }
}

/// The CPU computes in f32 only.
///
/// # Errors
/// [`Error::NoKernel`] for another element type.
pub fn cpu_dtype(op: &'static str, dtype: DType) -> Result<()> {
    if dtype == DType::F32 {
        return Ok(());
    }
    Err(Error::NoKernel { op, key: format!("cpu in {dtype}"), tried: "cpu in f32".into() })
}

/// The dims of `spec` are `want`.
///
/// # Errors
/// [`Error::Shape`].
pub fn dims(at: &str, what: &'static str, spec: &Spec, want: &[usize], why: &str) -> Result<()> {
    if spec.dims == want {
        return Ok(());
    }
    Err(shape(at, what, spec, format!("{want:?} {why}")))
}

/// An [`Error::Shape`] about `spec`.
pub fn shape(at: &str, what: &'static str, spec: &Spec, want: String) -> Error {
    Error::Shape { at: at.into(), what, got: spec.dims.clone(), want }
}
