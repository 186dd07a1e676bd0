//! Variants of a kernel: several ways to compute one pass; the first that applies is taken, or the one a
//! researcher asks for.

use crate::{
    device::Cuda,
    error::{Error, Result},
    tensor::DType,
};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// What was asked for in this process, `slot=name` or `operation=name`, and has not been taken yet.
static WAITING: Mutex<BTreeSet<(String, String)>> = Mutex::new(BTreeSet::new());

/// A choice that a folder publishes: `kernels::slots()` lists them all, without running anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Operation and pass, `attention.forward`.
    pub name: &'static str,
    /// Its variants, best first.
    pub variants: Vec<&'static str>,
}

impl Slot {
    /// The slot `name` with the variants `rows`.
    pub fn of<P>(name: &'static str, rows: &[Variant<P>]) -> Self {
        Self { name, variants: rows.iter().map(|v| v.name).collect() }
    }

    /// The operation, `attention`.
    pub fn operation(&self) -> &'static str {
        self.name.split('.').next().unwrap_or(self.name)
    }

    /// Whether `asked` means this slot: its own name, or its operation's.
    pub fn answers(&self, asked: &str) -> bool {
        asked == self.name || asked == self.operation()
    }
}

/// Refuses a `SLOT=NAME` word that no slot of `known` answers, before anything runs.
///
/// # Errors
/// [`Error::Config`] that lists the operations, the passes of the operation, or the names of the slot.
pub fn check(word: &str, known: &[Slot]) -> Result<()> {
    let bad = |found: &str, expected: String| Error::Config {
        key: "--variant".into(),
        found: found.into(),
        expected,
        fix: "`selvedge kernels variants` shows where each applies".into(),
    };
    let Some((asked, name)) = word.split_once('=') else {
        let expected = "OPERATION=VARIANT or OPERATION.PASS=VARIANT".into();
        return Err(bad(word, expected));
    };
    let operation = asked.split('.').next().unwrap_or_default();
    let of_operation: Vec<&Slot> = known.iter().filter(|s| s.operation() == operation).collect();
    if of_operation.is_empty() {
        let mut all: Vec<&str> = known.iter().map(Slot::operation).collect();
        all.dedup();
        return Err(bad(operation, format!("an operation with variants: {}", all.join(", "))));
    }
    let asked_for: Vec<&&Slot> = of_operation.iter().filter(|s| s.answers(asked)).collect();
    if asked_for.is_empty() {
        let passes: Vec<&str> = of_operation.iter().map(|s| s.name).collect();
        return Err(bad(
            asked,
            format!("{operation}, or one of its passes: {}", passes.join(", ")),
        ));
    }
    if asked_for.iter().any(|s| s.variants.contains(&name)) {
        return Ok(());
    }
    let mut names: Vec<&str> = asked_for.iter().flat_map(|s| s.variants.clone()).collect();
    names.sort_unstable();
    names.dedup();
    Err(bad(word, format!("a variant of {asked}: {}", names.join(", "))))
}

fn waiting() -> std::sync::MutexGuard<'static, BTreeSet<(String, String)>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that the user asked for `SLOT=NAME`, for [`never_taken`].
pub fn ask(word: &str) {
    if let Some((slot, name)) = word.split_once('=') {
        waiting().insert((slot.into(), name.into()));
    }
}

/// What was asked for and applied to nothing that ran; asked once.
pub fn never_taken() -> Vec<String> {
    std::mem::take(&mut *waiting())
        .into_iter()
        .map(|(slot, name)| format!("{slot}={name}"))
        .collect()
}

fn taken(slot: &str, name: &str) {
    let operation = slot.split('.').next().unwrap_or(slot);
    waiting().retain(|(s, n)| n != name || s != slot && s != operation);
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
/// applies. A name forced for the whole operation (`attention`) is taken in the passes that have it.
///
/// # Errors
/// [`Error::Config`] for a name forced for this very slot that no row has; [`Error::NoKernel`] when no row
/// applies.
pub fn choose<P: std::fmt::Debug>(
    cuda: &Cuda,
    slot: &'static str,
    rows: &'static [Variant<P>],
    problem: &P,
) -> Result<&'static Variant<P>> {
    let names = || rows.iter().map(|v| v.name).collect::<Vec<_>>().join(", ");
    if let Some(forced) = cuda.forced_variant(slot) {
        let row = rows.iter().find(|v| v.name == forced);
        if row.is_none() && cuda.forces_exactly(slot) {
            return Err(Error::Config {
                key: format!("--variant {slot}"),
                found: forced.clone(),
                expected: names(),
                fix: "`selvedge kernels variants` shows where each applies".into(),
            });
        }
        if let Some(row) = row.filter(|v| (v.applies)(problem)) {
            taken(slot, row.name);
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
