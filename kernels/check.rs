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

/// As [`float_inputs`], except that the second input, a weight, may be stored in half precision beside f32.
///
/// # Errors
/// As [`float_inputs`].
pub fn product_inputs(at: &str, ins: &[Spec], names: &[&'static str]) -> Result<DType> {
    count(at, ins, names)?;
    let half = |s: &Spec| matches!(s.dtype, DType::Bf16 | DType::F16);
    if ins[0].dtype != DType::F32 || !half(&ins[1]) {
        return float_inputs(at, ins, names);
    }
    let others = |i: usize| i != 1;
    let specs: Vec<Spec> = (0..ins.len()).filter(|i| others(*i)).map(|i| ins[i].clone()).collect();
    let names: Vec<&'static str> =
        (0..ins.len()).filter(|i| others(*i)).map(|i| names[i]).collect();
    float_inputs(at, &specs, &names)
}

/// How the weight of a product is stored for the CPU: in half precision only beside f32.
pub fn stored_weight(ins: &[Spec]) -> DType {
    if ins[0].dtype == DType::F32 { ins[1].dtype } else { DType::F32 }
}

/// A GPU's products have operands of one type.
///
/// # Errors
/// [`Error::NoKernel`] for a weight in half precision beside f32.
pub fn gpu_weight(op: &'static str, specs: &[Spec]) -> Result<()> {
    match (specs[0].dtype, specs[1].dtype) {
        (x, weight) if x == weight => Ok(()),
        (x, weight) => Err(Error::NoKernel {
            op,
            key: format!("a GPU with x in {x} and the weight in {weight}"),
            tried: "operands of one type".into(),
        }),
    }
}

/// A weight in half precision is frozen: its gradient is not computed.
///
/// # Errors
/// [`Error::NoKernel`] when it is wanted.
pub fn frozen_half(op: &'static str, specs: &[Spec], wanted: bool) -> Result<()> {
    match stored_weight(specs) {
        DType::Bf16 | DType::F16 if wanted => Err(Error::NoKernel {
            op,
            key: format!("cpu, gradient of a weight in {}", specs[1].dtype),
            tried: "gradients of weights in f32".into(),
        }),
        _ => Ok(()),
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
