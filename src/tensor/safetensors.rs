//! Reading `.safetensors` files through a memory map: names, shapes, and values on demand.

use super::Tensor;
use crate::error::{Error, Result};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
};

pub use safetensors::Dtype;

/// What the header says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// Byte range in the file.
    range: (usize, usize),
}

/// A tensor as it lies in a file: type, shape and bits, for copies that must be exact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// Element type.
    pub dtype: Dtype,
    /// Extents.
    pub dims: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

impl Raw {
    /// `data` as f32 elements of `dims`.
    pub fn f32(dims: &[usize], data: &[f32]) -> Self {
        Self { dtype: Dtype::F32, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// `data` rounded to `dtype` (F32, F16 or BF16; anything else stays F32).
    pub fn rounded(dims: &[usize], data: &[f32], dtype: Dtype) -> Self {
        let bytes = match dtype {
            Dtype::F16 => {
                let v: Vec<f16> = data.iter().map(|x| f16::from_f32(*x)).collect();
                bytemuck::cast_slice(&v).to_vec()
            }
            Dtype::BF16 => {
                let v: Vec<bf16> = data.iter().map(|x| bf16::from_f32(*x)).collect();
                bytemuck::cast_slice(&v).to_vec()
            }
            _ => return Self::f32(dims, data),
        };
        Self { dtype, dims: dims.to_vec(), bytes }
    }

    /// `data` as i32 elements of `dims`.
    pub fn i32(dims: &[usize], data: &[i32]) -> Self {
        Self { dtype: Dtype::I32, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// `data` as i64 elements of `dims`.
    pub fn i64(dims: &[usize], data: &[i64]) -> Self {
        Self { dtype: Dtype::I64, dims: dims.to_vec(), bytes: bytemuck::cast_slice(data).to_vec() }
    }

    /// The values as f32; `None` unless the type is F32, F16 or BF16 and the byte count fits.
    pub fn to_tensor(&self) -> Option<Tensor> {
        Tensor::new(&self.dims, floats(self.dtype, &self.bytes)?)
    }
}

/// The bytes as elements (whole ones only), copied because a map is not aligned.
fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    let mut out = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    let whole = size_of_val(out.as_slice());
    bytemuck::cast_slice_mut(&mut out).copy_from_slice(&bytes[..whole]);
    out
}

/// F32, F16 or BF16 bytes as f32.
fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => elements(bytes),
        Dtype::F16 => elements::<f16>(bytes).to_f32_vec(),
        Dtype::BF16 => elements::<bf16>(bytes).to_f32_vec(),
        _ => return None,
    })
}

enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(m) => m,
            Bytes::Owned(v) => v,
            Bytes::Static(s) => s,
        }
    }
}

/// An open `.safetensors` file: the header parsed and checked, the data left on disk until asked
/// for.
pub struct SafeFile {
    path: PathBuf,
    bytes: Bytes,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl fmt::Debug for SafeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SafeFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl SafeFile {
    /// Opens and maps `path`; the header is checked whole: every offset lies in the file, nothing
    /// overlaps, nothing is left over, every byte count is shape times type.
    ///
    /// The file must not be shortened by another program while it is open.
    ///
    /// # Errors
    /// [`Error::File`] when the system refuses; [`Error::Format`] when the content is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let about = fs::metadata(path).map_err(Error::file("open", path))?;
        if !about.is_file() {
            let found = if about.is_dir() { "a folder" } else { "no regular file" };
            return Err(format_error(path, found, "a .safetensors file", "check the path"));
        }
        if about.len() < 8 {
            return Err(truncated(path, &format!("{} bytes", about.len())));
        }
        let file = File::open(path).map_err(Error::file("open", path))?;
        let map = map_file(&file).map_err(Error::file("map", path))?;
        Self::parse(path.to_path_buf(), Bytes::Mapped(map))
    }

    /// The same over bytes in memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`Error::Format`] as [`SafeFile::open`].
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self> {
        Self::parse(name.into(), Bytes::Owned(bytes))
    }

    /// The same over bytes embedded in the program.
    ///
    /// # Errors
    /// [`Error::Format`] as [`SafeFile::open`].
    pub fn from_static(name: impl Into<PathBuf>, bytes: &'static [u8]) -> Result<Self> {
        Self::parse(name.into(), Bytes::Static(bytes))
    }

    fn parse(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let all = bytes.get();
        let header = header_text(&path, all)?;
        no_duplicates(&path, header)?;
        let (header_len, meta) =
            safetensors::SafeTensors::read_metadata(all).map_err(|e| header_error(&path, &e))?;
        let start = 8 + header_len;
        let entries = meta
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (from, to) = info.data_offsets;
                let range = (start + from, start + to);
                (name, Entry { dtype: info.dtype, dims: info.shape.clone(), range })
            })
            .collect();
        let metadata = meta.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path, bytes, entries, metadata })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors in the order of their names.
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// The free text pairs of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// What the header says about `name`.
    ///
    /// # Errors
    /// [`Error::Weights`] when there is no such tensor.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| Error::Weights {
            source_name: self.path.display().to_string(),
            missing: vec![name.to_string()],
            unknown: vec![],
            misshaped: vec![],
        })
    }

    /// The bytes of `name`, from the map.
    ///
    /// # Errors
    /// As [`SafeFile::entry`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let (from, to) = self.entry(name)?.range;
        Ok(&self.bytes.get()[from..to])
    }

    /// A copy of `name`, bit for bit.
    ///
    /// # Errors
    /// As [`SafeFile::entry`].
    pub fn raw(&self, name: &str) -> Result<Raw> {
        let entry = self.entry(name)?;
        let bytes = self.bytes(name)?.to_vec();
        Ok(Raw { dtype: entry.dtype, dims: entry.dims.clone(), bytes })
    }

    /// The values of an F32, F16 or BF16 tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] when missing, [`Error::DType`] for other types.
    pub fn f32(&self, name: &str) -> Result<Tensor> {
        let entry = self.entry(name)?;
        match floats(entry.dtype, self.bytes(name)?) {
            Some(data) => Ok(Tensor { dims: entry.dims.clone(), data }),
            None => Err(self.dtype_error(name, entry, "f32, f16 or bf16")),
        }
    }

    /// The values of an I32 tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] when missing, [`Error::DType`] for other types.
    pub fn i32(&self, name: &str) -> Result<Vec<i32>> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::I32 => Ok(elements(self.bytes(name)?)),
            _ => Err(self.dtype_error(name, entry, "i32")),
        }
    }

    /// The values of an I64 or I32 tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] when missing, [`Error::DType`] for other types.
    pub fn i64(&self, name: &str) -> Result<Vec<i64>> {
        let entry = self.entry(name)?;
        match entry.dtype {
            Dtype::I64 => Ok(elements(self.bytes(name)?)),
            Dtype::I32 => Ok(self.i32(name)?.into_iter().map(i64::from).collect()),
            _ => Err(self.dtype_error(name, entry, "i64 or i32")),
        }
    }

    fn dtype_error(&self, name: &str, entry: &Entry, want: &str) -> Error {
        Error::DType {
            at: format!("{}: {name}", self.path.display()),
            got: format!("{:?}", entry.dtype).to_lowercase(),
            want: want.into(),
        }
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is private and read-only; `SafeFile::open` documents that nobody may shorten
    // the file meanwhile, and our own writers replace files by renaming, which leaves an open map
    // intact.
    unsafe { memmap2::Mmap::map(file) }
}

/// Longest header that is read, bytes (the limit of the format's own library).
const MAX_HEADER_BYTES: u64 = 100_000_000;

fn header_text<'a>(path: &Path, all: &'a [u8]) -> Result<&'a [u8]> {
    let Some((first, rest)) = all.split_first_chunk::<8>() else {
        return Err(truncated(path, &format!("{} bytes", all.len())));
    };
    let len = u64::from_le_bytes(*first);
    if len > MAX_HEADER_BYTES {
        let found = format!("a header of {len} bytes");
        return Err(format_error(path, &found, "at most 100 MB", "is this a .safetensors file?"));
    }
    match usize::try_from(len).ok().and_then(|n| rest.get(..n)) {
        Some(header) => Ok(header),
        None => Err(truncated(path, &format!("{} bytes for a header of {len}", rest.len()))),
    }
}

/// The names of the header's top level, kept only to see one twice.
struct Names;

impl<'de> serde::de::Visitor<'de> for Names {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(
        self,
        mut map: A,
    ) -> std::result::Result<Option<String>, A::Error> {
        let mut seen = HashSet::new();
        let mut twice = None;
        while let Some((name, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
            if !seen.insert(name.clone()) {
                twice.get_or_insert(name);
            }
        }
        Ok(twice)
    }
}

fn no_duplicates(path: &Path, header: &[u8]) -> Result<()> {
    use serde::Deserializer;
    let text = std::str::from_utf8(header)
        .map_err(|_| format_error(path, "a header that is not UTF-8", "JSON", "copy it again"))?;
    match serde_json::Deserializer::from_str(text).deserialize_map(Names) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => {
            let found = format!("tensor {name} twice in the header");
            Err(format_error(path, &found, "each name once", "write the file again"))
        }
        Err(e) => {
            let found = format!("a header that is no JSON object ({e})");
            Err(format_error(path, &found, "safetensors JSON", "is this a .safetensors file?"))
        }
    }
}

fn header_error(path: &Path, e: &safetensors::SafeTensorError) -> Error {
    use safetensors::SafeTensorError as E;
    match e {
        E::MetadataIncompleteBuffer => {
            let found = "a data part of another length than the header says";
            format_error(
                path,
                found,
                "exactly the tensors' bytes",
                "the file is cut short; copy it again",
            )
        }
        E::InvalidOffset(name) => {
            let found = format!("overlapping or misplaced offsets at {name}");
            format_error(path, &found, "tensors one after another", "the file is damaged")
        }
        other => {
            let found = format!("a bad header ({other})");
            format_error(
                path,
                &found,
                "names, types, shapes and offsets that agree",
                "the file is damaged",
            )
        }
    }
}

fn truncated(path: &Path, found: &str) -> Error {
    format_error(path, found, "a whole .safetensors file", "the file is cut short; copy it again")
}

fn format_error(path: &Path, found: &str, expected: &str, fix: &str) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        found: found.into(),
        expected: expected.into(),
        fix: fix.into(),
    }
}
