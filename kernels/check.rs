//! Checks that every `infer` needs, with one wording.

use crate::{
    error::{Error, Result},
    tensor::{DType, Spec},
};

/// `ins` has as many specs as `names`, all f32.
///
/// # Errors
/// [`Error::Plan`] for another count, [`Error::DType`] for another element type.
pub fn f32_inputs(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<()> {
    if ins.len() != names.len() {
        let problem =
            format!("{} inputs, expected {}: {}", ins.len(), names.len(), names.join(", "));
        return Err(Error::Plan { at: at.into(), problem });
    }
    match ins.iter().zip(names).find(|(s, _)| s.dtype != DType::F32) {
        Some((s, name)) => Err(Error::DType {
            at: format!("{at}: {name}"),
            got: s.dtype.to_string(),
            want: "f32".into(),
        }),
        None => Ok(()),
    }
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
