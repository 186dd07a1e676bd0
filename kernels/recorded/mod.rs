//! The real inputs of one operation of a run, in a file: to measure and compare it alone.
//!
//! [`ask`] names an operation by its scope; the program that runs it next writes the file. The file is a
//! `.safetensors` with the inputs as they lay on the device (`in.0`, `in.1`, ..) and, as text, the operation.

mod printed;

use super::case::{Case, Fill};
use crate::{
    device::{Buf, Device},
    error::{Error, Result},
    op::Op,
    tensor::{
        DType, Spec,
        safetensors::{Dtype, Raw, SafeFile},
        write_safetensors,
    },
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is asked for and not yet written.
static ASKED: Mutex<Option<Asked>> = Mutex::new(None);

struct Asked {
    scope: String,
    /// Runs of it to let pass.
    skip: usize,
    file: PathBuf,
    /// Scopes that ran meanwhile, for the message when it never comes.
    seen: Vec<String>,
}

fn asked() -> MutexGuard<'static, Option<Asked>> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks for the inputs of the operation in `scope` (`scope:operation` where a scope has several), the run
/// number `nth` of it, counted from 0.
pub fn ask(scope: &str, nth: usize, file: &Path) {
    let (scope, file) = (scope.to_string(), file.to_path_buf());
    *asked() = Some(Asked { scope, skip: nth, file, seen: vec![] });
}

/// Whether something is asked for: programs then run step by step.
pub fn is_asked() -> bool {
    asked().is_some()
}

/// Ends the asking.
///
/// # Errors
/// [`Error::Config`] when no operation of that scope ran, with the nearest scopes that did.
pub fn finish() -> Result<()> {
    let Some(asked) = asked().take() else { return Ok(()) };
    let last = asked.scope.rsplit('.').next().unwrap_or_default();
    let near: Vec<&str> = (asked.seen.iter().map(String::as_str))
        .filter(|s| s.contains(last))
        .chain(asked.seen.iter().map(String::as_str))
        .take(6)
        .collect();
    Err(Error::Config {
        key: "--capture".into(),
        found: asked.scope.clone(),
        expected: format!("the scope of an operation that ran, such as {}", near.join(", ")),
        fix: "`selvedge plan` prints all scopes".into(),
    })
}

/// Called before an operation runs forward: writes the file if it is the one asked for.
///
/// # Errors
/// [`Error::File`], or those of the driver.
pub fn before(
    device: &Device,
    scope: &str,
    op: &dyn Op,
    specs: &[Spec],
    ins: &[Buf<'_>],
) -> Result<()> {
    let mut asked = asked();
    let Some(wanted) = asked.as_mut() else { return Ok(()) };
    let qualified = format!("{scope}:{}", op.name());
    if wanted.scope != scope && wanted.scope != qualified {
        if !wanted.seen.contains(&qualified) {
            wanted.seen.push(qualified);
        }
        return Ok(());
    }
    if wanted.skip > 0 {
        wanted.skip -= 1;
        return Ok(());
    }
    let file = wanted.file.clone();
    *asked = None;
    let mut tensors = BTreeMap::new();
    for (i, (spec, buf)) in specs.iter().zip(ins).enumerate() {
        let mut bytes = buf.bytes(device)?;
        bytes.truncate(spec.bytes());
        let raw = Raw { dtype: file_dtype(spec.dtype), dims: spec.dims.clone(), bytes };
        tensors.insert(format!("in.{i}"), raw);
    }
    let text = BTreeMap::from([
        ("format".into(), "selvedge recorded operation 1".into()),
        ("scope".into(), scope.into()),
        ("operation".into(), format!("{op:?}")),
        ("device".into(), device.name()),
    ]);
    write_safetensors(&file, tensors.iter().map(|(name, raw)| (name.as_str(), raw)), &text)
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::I32 => Dtype::I32,
    }
}

/// A recorded operation.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// It, with its inputs as data. Inputs have the gradients that the tests of this operation ask for.
    pub case: Case,
    /// The element type it ran in.
    pub dtype: DType,
    /// Where it ran.
    pub scope: String,
}

/// Reads a file that `--capture` wrote.
///
/// # Errors
/// [`Error::Format`] for a file that holds something else; [`Error::File`].
pub fn read(path: &Path) -> Result<Recorded> {
    let file = SafeFile::open(path)?;
    let bad = |found: String| Error::Format {
        path: path.into(),
        found,
        expected: "an operation that --capture of this program wrote".into(),
        fix: "capture it again".into(),
    };
    let text = file.metadata();
    let printed = text.get("operation").ok_or_else(|| bad("no operation".into()))?;
    let op = printed::operation(printed).ok_or_else(|| bad(format!("operation {printed}")))?;
    let (mut ins, mut data, mut dtype) = (vec![], vec![], None);
    for i in 0..file.entries().len() {
        let name = format!("in.{i}");
        let dims = file.entry(&name)?.dims.clone();
        let own = match file.entry(&name)?.dtype {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::Bf16,
            Dtype::F16 => DType::F16,
            Dtype::I32 => DType::I32,
            other => return Err(bad(format!("{name} of type {other:?}"))),
        };
        if own == DType::I32 {
            ins.push(Spec::i32(&dims));
            data.push(Fill::Words(file.i32(&name)?));
            continue;
        }
        dtype = dtype.or(Some(own));
        ins.push(Spec::f32(&dims));
        data.push(Fill::Values(own.decode(file.bytes(&name)?)));
    }
    op.infer(&ins)?;
    let known = super::cases();
    let kind = |op: &dyn Op| format!("{op:?}").split(' ').next().map(String::from);
    let same = |c: &&Case| kind(&*c.op) == kind(&*op) && c.ins.len() == ins.len();
    let like = known.iter().find(same);
    let grads = like.map_or_else(|| vec![false; ins.len()], |c| c.grads.clone());
    let scope = text.get("scope").cloned().unwrap_or_default();
    let name = format!("{scope}: {}", op.name());
    let case = Case { name, op, ins, data, grads, state: vec![] };
    Ok(Recorded { case, dtype: dtype.unwrap_or(DType::F32), scope })
}
