//! Torch files (`.pth`, `.pt`, `.pth.tar`, `.bin`): a zip archive of storages with a pickle that names them.
//!
//! The pickle is read as data ([`pickle`]); nothing of it is ever run. Tensors are used where they lie in the
//! mapped file; only a view that is not contiguous is copied together.

mod pickle;
mod value;
mod zip;

use super::safetensors::{Bytes, Dtype, Entry, SafeFile};
use crate::error::{Error, Result};
use std::{collections::BTreeMap, ops::Range, path::Path};
use value::{Element, Pickle, Storage, Strided, Value};

/// Longest pickle that is read, bytes; that of SDXL's U-Net has 300 KB.
const MAX_PICKLE_BYTES: usize = 64 << 20;

/// Beside the file's own length, what copies of strided views may take, bytes.
const SPARE_COPY_BYTES: usize = 1 << 20;

/// Values that are looked at in search of tensors; one dictionary within many others counts each time.
const MAX_VALUES: usize = 1 << 20;

/// Dictionaries within dictionaries are followed this deep.
const MAX_DEPTH: usize = 8;

/// Keys under which the weights lie in a file that holds more; a teacher is what DINO publishes.
const WRAPPERS: [&str; 8] =
    ["state_dict", "model_state_dict", "model", "teacher", "module", "net", "params", "weights"];

/// Opens a file of weights by what it is: a torch file (see [`open_torch`]) or a `.safetensors` file.
///
/// # Errors
/// Those of either reader; an ONNX file and a torch file from before version 1.6 are named as such.
pub fn open_weights(path: impl AsRef<Path>) -> Result<SafeFile> {
    let path = path.as_ref();
    let bytes = SafeFile::map(path)?;
    let all = bytes.get();
    if all.starts_with(b"PK") {
        return open(path, bytes);
    }
    let odd = |found: &str, fix: &str| Error::Format {
        path: path.to_path_buf(),
        found: found.into(),
        expected: "a .safetensors file or what torch.save writes".into(),
        fix: fix.into(),
    };
    // Protocol 2, then the magic number 0x1950a86a20f9469cfc6c as a long integer of 10 bytes.
    let legacy = all.starts_with(&[0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9]);
    // The first field of an ONNX model is its version, a small number; the second its producer, or the graph.
    let onnx = matches!(all, [8, 1..=20, 18 | 26 | 34 | 42 | 50 | 58 | 66, ..]);
    if legacy {
        let fix = "load it with torch 1.6 or later and save it again with torch.save";
        return Err(odd("a torch file from before torch 1.6 (no zip archive)", fix));
    }
    if onnx {
        return Err(odd("an ONNX model", "export the weights of the original model"));
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if [".pth", ".pt", ".pth.tar", ".bin", ".ckpt"].iter().any(|end| name.ends_with(end)) {
        return Err(odd("no zip archive under a torch file's name", "copy it again"));
    }
    SafeFile::open(path)
}

/// Opens a torch file: every tensor of its weights by name.
///
/// Weights within `{"state_dict": ...}`, `{"model": ...}`, `{"teacher": ...}` and the like are found; values that
/// are no tensors (epochs, settings) are passed over; a nested dictionary's names are joined with dots.
///
/// # Errors
/// [`Error::Format`] for an archive that is not torch's, a pickle with anything but data in it (named), a
/// tensor that does not fit its storage, and a file without tensors.
fn open(path: &Path, bytes: Bytes) -> Result<SafeFile> {
    let all = bytes.get();
    let archive = zip::entries(path, all)?;
    let (root, code) = pickle_of(path, &archive)?;
    let code = all.get(code).unwrap_or_default();
    let (built, top) = pickle::read(path, code)?;
    let file = Archive { path, all, root, archive: &archive, built: &built };
    let (mut names, mut left) = (BTreeMap::new(), MAX_VALUES);
    file.collect(file.unwrapped(top), "", (MAX_DEPTH, &mut left), &mut names)?;
    if names.is_empty() {
        return Err(odd(path, "no tensors", "a dictionary of tensors; save the state_dict()"));
    }
    let (mut entries, mut copies, mut copied) = (BTreeMap::new(), vec![], 0usize);
    for (name, tensor) in names {
        let (entry, copy) = file.entry(&name, &built.tensors[tensor], &mut copied)?;
        let part = if copy.is_some() { copies.len() + 1 } else { 0 };
        copies.extend(copy.map(Bytes::Owned));
        entries.insert(name, Entry { part, ..entry });
    }
    Ok(SafeFile::of_parts(path, bytes, copies, entries))
}

fn odd(path: &Path, found: &str, expected: &str) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        found: found.into(),
        expected: expected.into(),
        fix: "copy the file again, or save the weights as .safetensors".into(),
    }
}

/// The archive's folder (`archive/`), and where its pickle lies.
fn pickle_of(path: &Path, archive: &zip::Entries) -> Result<(String, Range<usize>)> {
    let ends =
        |end: &str| archive.iter().filter(move |(n, _)| n.ends_with(end)).collect::<Vec<_>>();
    let root = |name: &str| name.strip_suffix("data.pkl").map(str::to_string);
    let found = ends("data.pkl");
    let [(name, range)] = found[..] else {
        let found = format!("a zip archive with {} pickles named data.pkl", found.len());
        return Err(odd(path, &found, "one, as torch.save writes"));
    };
    let root = root(name).filter(|r| r.is_empty() || r.ends_with('/')).unwrap_or_default();
    if range.len() > MAX_PICKLE_BYTES {
        let found = format!("a pickle of {} bytes", range.len());
        return Err(odd(path, &found, "at most 64 MB"));
    }
    Ok((root, range.clone()))
}

/// A file that is being read.
struct Archive<'a> {
    path: &'a Path,
    all: &'a [u8],
    root: String,
    archive: &'a zip::Entries,
    built: &'a Pickle,
}

impl Archive<'_> {
    fn text(&self, key: Value) -> Option<String> {
        match key {
            Value::Text(i) => Some(self.built.texts[i].clone()),
            Value::Int(n) => Some(n.to_string()),
            _ => None,
        }
    }

    fn dict(&self, value: Value) -> &[(Value, Value)] {
        match value {
            Value::Dict(i) => &self.built.dicts[i],
            _ => &[],
        }
    }

    /// The dictionary of weights within dictionaries that hold it beside other things.
    fn unwrapped(&self, mut top: Value) -> Value {
        for _ in 0..MAX_DEPTH {
            let inner = |key: &str| {
                let is = |(k, v): &&(Value, Value)| {
                    matches!(v, Value::Dict(_)) && self.text(*k).as_deref() == Some(key)
                };
                self.dict(top).iter().find(is).map(|(_, v)| *v)
            };
            let holds = |v: &Value| {
                self.dict(*v).iter().any(|(_, v)| matches!(v, Value::Tensor(_) | Value::Dict(_)))
            };
            match WRAPPERS.iter().filter_map(|key| inner(key)).find(holds) {
                Some(inner) => top = inner,
                None => break,
            }
        }
        top
    }

    /// Tensors of a dictionary and of those within it, by their joined names.
    fn collect(
        &self,
        value: Value,
        name: &str,
        (depth, left): (usize, &mut usize),
        out: &mut BTreeMap<String, usize>,
    ) -> Result<()> {
        if depth == 0 {
            let found = format!("dictionaries more than {MAX_DEPTH} deep (or in a circle)");
            return Err(odd(self.path, &found, "a dictionary of tensors"));
        }
        for (key, value) in self.dict(value) {
            let more = left.checked_sub(1);
            *left = more.ok_or_else(|| {
                odd(self.path, "more than a million values", "a dictionary of tensors")
            })?;
            let Some(key) = self.text(*key) else { continue };
            let full = if name.is_empty() { key } else { format!("{name}.{key}") };
            let before = match value {
                Value::Tensor(i) => out.insert(full.clone(), *i),
                Value::Dict(_) => {
                    self.collect(*value, &full, (depth - 1, left), out)?;
                    None
                }
                _ => None,
            };
            if before.is_some() {
                return Err(odd(self.path, &format!("{full} twice"), "each name once"));
            }
        }
        Ok(())
    }

    /// Where a storage lies in the file.
    fn place(&self, name: &str, storage: &Storage) -> Result<(Dtype, usize, Range<usize>)> {
        let (dtype, size) = element(storage.element);
        let key = &self.built.texts[storage.key];
        let at = self.archive.get(&format!("{}data/{key}", self.root));
        let len = usize::try_from(storage.len).ok().and_then(|n| n.checked_mul(size));
        match (at, len) {
            (Some(at), Some(len)) if len <= at.len() => Ok((dtype, size, at.start..at.start + len)),
            (Some(at), _) => {
                let found = format!("{name}: {} elements in {} bytes", storage.len, at.len());
                Err(odd(self.path, &found, "a storage as large as it says"))
            }
            (None, _) => Err(odd(
                self.path,
                &format!("{name} without its data ({key:?})"),
                "data/KEY for each",
            )),
        }
    }

    /// The tensor where it lies, or a copy of what is no contiguous piece of its storage.
    fn entry(
        &self,
        name: &str,
        t: &Strided,
        copied: &mut usize,
    ) -> Result<(Entry, Option<Vec<u8>>)> {
        let (dtype, size, at) = self.place(name, &self.built.storages[t.storage])?;
        let outside = || odd(self.path, &format!("{name} outside its storage"), "a view inside it");
        let whole = |all: &[i64]| -> Option<Vec<usize>> {
            all.iter().map(|n| usize::try_from(*n).ok()).collect()
        };
        let (dims, strides) =
            (whole(&t.dims).ok_or_else(outside)?, whole(&t.strides).ok_or_else(outside)?);
        let offset = usize::try_from(t.offset).map_err(|_| outside())?;
        if dims.len() != strides.len() || dims.len() > 16 {
            return Err(outside());
        }
        let count = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(outside)?;
        let entry = |from: usize| Entry {
            dtype,
            dims: dims.clone(),
            range: (from, from + count * size),
            part: 0,
        };
        if count == 0 {
            return Ok((entry(at.start), None));
        }
        let last = dims.iter().zip(&strides).try_fold(offset, |at, (d, s)| {
            (d - 1).checked_mul(*s).and_then(|step| at.checked_add(step))
        });
        if last.is_none_or(|last| last >= at.len() / size) {
            return Err(outside());
        }
        if contiguous(&dims, &strides) {
            return Ok((entry(at.start + offset * size), None));
        }
        let bytes = count.checked_mul(size).and_then(|n| n.checked_add(*copied));
        *copied = bytes.filter(|n| *n <= self.all.len() + SPARE_COPY_BYTES).ok_or_else(|| {
            odd(
                self.path,
                &format!("{name}: {dims:?} out of a small storage"),
                "no more than the file has",
            )
        })?;
        let storage = &self.all[at];
        Ok((entry(0), Some(gathered(storage, size, offset, &dims, &strides))))
    }
}

/// Type and size of stored elements.
fn element(e: Element) -> (Dtype, usize) {
    match e {
        Element::F32 => (Dtype::F32, 4),
        Element::F16 => (Dtype::F16, 2),
        Element::Bf16 => (Dtype::BF16, 2),
        Element::F64 => (Dtype::F64, 8),
        Element::I64 => (Dtype::I64, 8),
        Element::I32 => (Dtype::I32, 4),
        Element::I16 => (Dtype::I16, 2),
        Element::I8 => (Dtype::I8, 1),
        Element::U8 => (Dtype::U8, 1),
        Element::Bool => (Dtype::BOOL, 1),
    }
}

/// Whether elements in the order of `dims` follow each other; the stride of an axis of 1 does not count.
fn contiguous(dims: &[usize], strides: &[usize]) -> bool {
    let mut next = 1;
    dims.iter().zip(strides).rev().filter(|(d, _)| **d != 1).all(|(d, s)| {
        let fits = *s == next;
        next *= d;
        fits
    })
}

/// The elements of a view that lies within `storage`, one after another.
fn gathered(
    storage: &[u8],
    size: usize,
    offset: usize,
    dims: &[usize],
    strides: &[usize],
) -> Vec<u8> {
    let count: usize = dims.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut at = vec![0usize; dims.len()];
    for _ in 0..count {
        let i = offset + at.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        out.extend_from_slice(&storage[i * size..(i + 1) * size]);
        for axis in (0..dims.len()).rev() {
            at[axis] += 1;
            if at[axis] < dims[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    out
}
