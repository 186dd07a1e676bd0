//! Variants of a kernel: several ways to compute one pass; the first that applies is taken, or the one a
//! researcher asks for.

use crate::{
    device::Cuda,
    error::{Error, Result},
    tensor::DType,
};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Every slot that was chosen for in this process, with the names there are.
static SEEN: Mutex<BTreeMap<&'static str, Vec<&'static str>>> = Mutex::new(BTreeMap::new());

/// The slots that were chosen for so far and the names of their variants, best first.
pub fn seen() -> BTreeMap<&'static str, Vec<&'static str>> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// One compiled way to compute one pass of an operation; `P` is what the folder chooses by.
#[derive(Debug)]
pub struct Variant<P: 'static> {
    /// What `--variant` and the printed plan call it, `sm90_m128`.
    pub name: &'static str,
    /// Whether it can compute this problem on this chip.
    pub applies: fn(&P) -> bool,
}

/// The first of `rows` that applies to `problem`, or the one forced for `slot` (`attention.forward`) where it
/// applies.
///
/// # Errors
/// [`Error::Config`] for a forced name that no row has; [`Error::NoKernel`] when no row applies.
pub fn choose<P: std::fmt::Debug>(
    cuda: &Cuda,
    slot: &'static str,
    rows: &'static [Variant<P>],
    problem: &P,
) -> Result<&'static Variant<P>> {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    seen.entry(slot).or_insert_with(|| rows.iter().map(|v| v.name).collect());
    drop(seen);
    let names = || rows.iter().map(|v| v.name).collect::<Vec<_>>().join(", ");
    if let Some(forced) = cuda.forced_variant(slot) {
        let row = rows.iter().find(|v| v.name == forced).ok_or_else(|| Error::Config {
            key: format!("--variant {slot}"),
            found: forced.clone(),
            expected: names(),
            fix: "`selvedge kernels variants` shows where each applies".into(),
        })?;
        if (row.applies)(problem) {
            return Ok(row);
        }
    }
    rows.iter().find(|v| (v.applies)(problem)).ok_or_else(|| Error::NoKernel {
        op: slot,
        key: format!("{problem:?} on {}", cuda.name()),
        tried: names(),
    })
}

/// The symbol for `dtype` of `[f32, bf16, f16]`; integers have none and get the first.
pub fn by_dtype(dtype: DType, symbols: [&'static str; 3]) -> &'static str {
    match dtype {
        DType::F32 | DType::I32 => symbols[0],
        DType::Bf16 => symbols[1],
        DType::F16 => symbols[2],
    }
}
