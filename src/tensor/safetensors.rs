//! Files of tensors through a memory map: names, shapes, and values on demand. Reads the header of
//! `.safetensors` files; torch files come from [`super::torch`].

use super::{
    DType, Floats, Tensor,
    header::{format_error, header_error, header_text, no_duplicates, truncated},
    raw::floats,
    widen::{element_bytes, swapped, widen, widen_swapped},
};
use crate::error::{Error, Result};
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use super::raw::Raw;
pub use safetensors::Dtype;

/// What a file says about one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Extents, outermost first; empty for a scalar.
    pub dims: Vec<usize>,
    /// Byte range in its part.
    pub(super) range: (usize, usize),
    /// 0 for the file itself; else a copy of what does not lie in it in this order.
    pub(super) part: usize,
}

/// The bytes as elements (whole ones only), copied because a map is not aligned.
fn elements<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    let mut out = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    let whole = size_of_val(out.as_slice());
    bytemuck::cast_slice_mut(&mut out).copy_from_slice(&bytes[..whole]);
    out
}

/// Where the bytes of a file lie.
pub(super) enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
    Static(&'static [u8]),
}

impl Bytes {
    /// The bytes.
    pub fn get(&self) -> &[u8] {
        match self {
            Bytes::Mapped(m) => m,
            Bytes::Owned(v) => v,
            Bytes::Static(s) => s,
        }
    }
}

/// The bytes of one tensor, or of some of its rows, where they lie in a file.
///
/// When the last use is over, the pages it lay on no longer count as this process's memory: what was
/// copied from a file is not resident twice.
pub struct Stored {
    bytes: Arc<Bytes>,
    dtype: Dtype,
    range: Range<usize>,
}

/// A mapped tensor as f32 elements, without a copy.
struct StoredFloats(Stored);

impl AsRef<[u8]> for Stored {
    fn as_ref(&self) -> &[u8] {
        &self.bytes.get()[self.range.clone()]
    }
}

impl AsRef<[f32]> for StoredFloats {
    fn as_ref(&self) -> &[f32] {
        bytemuck::cast_slice(self.0.as_ref()) // its only maker saw that they are aligned
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        if let Bytes::Mapped(map) = &*self.bytes {
            release(map, &self.range);
        }
    }
}

impl Stored {
    /// Element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Only part `i` of `n` equal parts.
    pub fn part(mut self, i: usize, n: usize) -> Self {
        let (start, len) = (self.range.start, self.range.len() / n.max(1));
        self.range = start + i * len..start + (i + 1) * len;
        self
    }

    /// The elements themselves, where they are f32 at an address that f32 may have; else `self` again.
    ///
    /// # Errors
    /// What was asked, unchanged.
    pub fn floats(self) -> std::result::Result<Floats, Self> {
        let fits = bytemuck::try_cast_slice::<u8, f32>(self.as_ref()).is_ok();
        match self.dtype == Dtype::F32 && fits {
            true => Ok(Floats::new(StoredFloats(self))),
            false => Err(self),
        }
    }

    /// Whether the elements are stored as `dtype`.
    pub fn is(&self, dtype: DType) -> bool {
        matches!(
            (self.dtype, dtype),
            (Dtype::F32, DType::F32) | (Dtype::F16, DType::F16) | (Dtype::BF16, DType::Bf16)
        )
    }

    /// F32, F16 or BF16 elements written to `out` as f32, on every core.
    pub fn widen(&self, out: &mut [f32]) {
        widen(self.dtype, self.as_ref(), out);
    }

    /// The same of matrices `[.., from, to]`, written as `[.., to, from]`.
    pub fn widen_swapped(&self, from_to: [usize; 2], out: &mut [f32]) {
        widen_swapped(self.dtype, self.as_ref(), from_to, out);
    }

    /// The stored elements of matrices `[.., from, to]` in the order `[.., to, from]`.
    pub fn swapped(&self, from_to: [usize; 2]) -> Vec<u8> {
        swapped(element_bytes(self.dtype).unwrap_or(1), self.as_ref(), from_to)
    }
}

/// An open file of tensors, `.safetensors` or torch's: the header parsed and checked, the data left on
/// disk until asked for.
pub struct SafeFile {
    path: PathBuf,
    /// The file, and copies of tensors that do not lie in it in their order.
    parts: Vec<Arc<Bytes>>,
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
    /// The file must not be shortened or written over by another program while it is open or its tensors are in
    /// use; one that is replaced by renaming is no danger.
    ///
    /// # Errors
    /// [`Error::File`] when the system refuses; [`Error::Format`] when the content is no such file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(path.to_path_buf(), Self::map(path)?)
    }

    /// Maps a regular file of at least 8 bytes.
    pub(super) fn map(path: &Path) -> Result<Bytes> {
        let about = fs::metadata(path).map_err(Error::file("open", path))?;
        if !about.is_file() {
            let found = if about.is_dir() { "a folder" } else { "no regular file" };
            return Err(format_error(path, found, "a .safetensors file", "check the path"));
        }
        if about.len() < 8 {
            return Err(truncated(path, &format!("{} bytes", about.len())));
        }
        let file = File::open(path).map_err(Error::file("open", path))?;
        Ok(Bytes::Mapped(map_file(&file).map_err(Error::file("map", path))?))
    }

    /// A file of another format whose reader has found its tensors.
    pub(super) fn of_parts(
        path: &Path,
        file: Bytes,
        copies: Vec<Bytes>,
        entries: BTreeMap<String, Entry>,
    ) -> Self {
        let parts = [file].into_iter().chain(copies).map(Arc::new).collect();
        Self { path: path.to_path_buf(), parts, entries, metadata: BTreeMap::new() }
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
                (name, Entry { dtype: info.dtype, dims: info.shape.clone(), range, part: 0 })
            })
            .collect();
        let metadata = meta.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path, parts: vec![Arc::new(bytes)], entries, metadata })
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
        let entry = self.entry(name)?;
        Ok(&self.parts[entry.part].get()[entry.range.0..entry.range.1])
    }

    /// The F32, F16 or BF16 tensor `name` where it lies; the system is told that it is wanted.
    ///
    /// # Errors
    /// [`Error::Weights`] when missing, [`Error::DType`] for other types.
    pub fn stored(&self, name: &str) -> Result<Stored> {
        let entry = self.entry(name)?;
        if element_bytes(entry.dtype).is_none() {
            return Err(self.dtype_error(name, entry, "f32, f16 or bf16"));
        }
        let (range, bytes) = (entry.range.0..entry.range.1, &self.parts[entry.part]);
        if let Bytes::Mapped(map) = &**bytes {
            expect(map, &range);
        }
        Ok(Stored { bytes: bytes.clone(), dtype: entry.dtype, range })
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

/// Ranges below this are not worth a call to the system, bytes.
const ADVISED_BYTES: usize = 1 << 20;

/// Asks for `range` to be read ahead.
fn expect(map: &memmap2::Mmap, range: &Range<usize>) {
    #[cfg(unix)]
    if range.len() >= ADVISED_BYTES {
        let _ = map.advise_range(memmap2::Advice::WillNeed, range.start, range.len());
    }
}

/// Gives back the pages that lie within `range`; they stay in the system's cache of the file.
#[allow(unsafe_code)]
fn release(map: &memmap2::Mmap, range: &Range<usize>) {
    const PAGE_BYTES: usize = 1 << 16; // no system has larger ones
    let at = range.start.next_multiple_of(PAGE_BYTES);
    let end = range.end / PAGE_BYTES * PAGE_BYTES;
    #[cfg(unix)]
    if end > at && range.len() >= ADVISED_BYTES {
        let gone = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: a private map that is only read: pages that are touched again come from the file again,
        // with the same bytes.
        let _ = unsafe { map.unchecked_advise_range(gone, at, end - at) };
    }
}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<memmap2::Mmap> {
    // SAFETY: the map is private and read-only; `SafeFile::open` documents that nobody may shorten
    // the file meanwhile, and our own writers replace files by renaming, which leaves an open map
    // intact.
    unsafe { memmap2::Mmap::map(file) }
}
