//! The directory of a zip archive whose entries lie in it as they are: what `torch.save` writes.

use crate::error::{Error, Result};
use std::{collections::BTreeMap, ops::Range, path::Path};

/// Signatures of the records.
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;

/// Lengths of the records without names, extra fields and comments, bytes.
const END_BYTES: usize = 22;
const LOCATOR_64_BYTES: usize = 20;
const CENTRAL_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;

/// A comment behind the archive is not longer.
const MAX_COMMENT_BYTES: usize = 0xFFFF;

/// Stands for a number that lies in the 64-bit extra field.
const IN_EXTRA: u64 = 0xFFFF_FFFF;

/// Where the content of every entry lies in the file, by name.
pub type Entries = BTreeMap<String, Range<usize>>;

/// Little-endian numbers of a file, each checked against its end.
struct Bytes<'a> {
    all: &'a [u8],
    path: &'a Path,
}

impl<'a> Bytes<'a> {
    fn at(&self, from: usize, len: usize) -> Result<&'a [u8]> {
        let end = from.checked_add(len);
        end.and_then(|end| self.all.get(from..end)).ok_or_else(|| {
            self.odd(&format!("a record at byte {from} that ends after the file"), "copy it again")
        })
    }

    fn number(&self, from: usize, len: usize) -> Result<u64> {
        Ok(self.at(from, len)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn place(&self, n: u64) -> Result<usize> {
        usize::try_from(n).map_err(|_| self.odd(&format!("a place at byte {n}"), "copy it again"))
    }

    fn odd(&self, found: &str, fix: &str) -> Error {
        Error::Format {
            path: self.path.to_path_buf(),
            found: format!("a zip archive with {found}"),
            expected: "what torch.save writes".into(),
            fix: fix.into(),
        }
    }
}

/// Reads the directory of `all`, the content of `path`.
///
/// # Errors
/// [`Error::Format`] for an archive that is cut off, compressed or encrypted, holds TorchScript code, or whose
/// records overlap or lie outside the file.
pub fn entries(path: &Path, all: &[u8]) -> Result<Entries> {
    let bytes = Bytes { all, path };
    let (count, mut at) = directory(&bytes)?;
    let mut found = Entries::new();
    for _ in 0..count {
        if bytes.number(at, 4)? != u64::from(CENTRAL) {
            return Err(bytes.odd(&format!("no directory entry at byte {at}"), "copy it again"));
        }
        let field = |offset: usize, len: usize| bytes.number(at + offset, len);
        let (flags, method) = (field(8, 2)?, field(10, 2)?);
        let lengths = [field(28, 2)?, field(30, 2)?, field(32, 2)?];
        let [name_len, extra_len, comment_len] = lengths.map(|n| n as usize);
        let name = bytes.at(at + CENTRAL_BYTES, name_len)?;
        let name = String::from_utf8_lossy(name).into_owned();
        if name.contains("/code/") {
            let fix = "nothing was run; save the model's state_dict() with torch.save";
            return Err(bytes.odd(&format!("a TorchScript program ({name:?})"), fix));
        }
        if flags & 1 != 0 || method != 0 {
            let how = if method != 0 { "compressed" } else { "encrypted" };
            let fix = "write the file again with torch.save, which stores the bytes as they are";
            return Err(bytes.odd(&format!("the {how} entry {name:?}"), fix));
        }
        let extra = bytes.at(at + CENTRAL_BYTES + name_len, extra_len)?;
        let [size, packed, local] =
            wide(&bytes, extra, [field(24, 4)?, field(20, 4)?, field(42, 4)?])?;
        if size != packed {
            return Err(bytes.odd(&format!("two sizes for {name:?}"), "copy it again"));
        }
        let range = content(&bytes, bytes.place(local)?, bytes.place(size)?)?;
        if found.insert(name.clone(), range).is_some() {
            return Err(bytes.odd(&format!("the entry {name:?} twice"), "write it again"));
        }
        at += CENTRAL_BYTES + name_len + extra_len + comment_len;
    }
    apart(&bytes, &found)?;
    Ok(found)
}

/// Number of entries and place of the first directory entry.
fn directory(bytes: &Bytes<'_>) -> Result<(u64, usize)> {
    let all = bytes.all;
    let last = all.len().checked_sub(END_BYTES);
    let first = all.len().saturating_sub(END_BYTES + MAX_COMMENT_BYTES);
    let end = last.and_then(|last| {
        (first..=last).rev().find(|at| all[*at..].starts_with(&END.to_le_bytes()))
    });
    let Some(end) = end else {
        return Err(bytes.odd("no directory at its end: it is cut off", "copy it again"));
    };
    let (mut count, mut start) = (bytes.number(end + 10, 2)?, bytes.number(end + 16, 4)?);
    if let Some(at) = end.checked_sub(LOCATOR_64_BYTES)
        && bytes.number(at, 4)? == u64::from(LOCATOR_64)
    {
        let wide = bytes.place(bytes.number(at + 8, 8)?)?;
        if bytes.number(wide, 4)? != u64::from(END_64) {
            return Err(bytes.odd("no 64-bit directory where one is announced", "copy it again"));
        }
        bytes.at(wide, 56)?;
        (count, start) = (bytes.number(wide + 32, 8)?, bytes.number(wide + 48, 8)?);
    }
    // Every entry takes a record in the directory: a count beyond that is a lie.
    if count > (all.len() / CENTRAL_BYTES) as u64 {
        return Err(bytes.odd(&format!("{count} entries in {} bytes", all.len()), "copy it again"));
    }
    Ok((count, bytes.place(start)?))
}

/// Size, packed size and place of an entry; each that is `IN_EXTRA` stands in the 64-bit extra field, in this order.
fn wide(bytes: &Bytes<'_>, extra: &[u8], short: [u64; 3]) -> Result<[u64; 3]> {
    let extra = Bytes { all: extra, path: bytes.path };
    let (mut at, mut out) = (0, short);
    while at + 4 <= extra.all.len() {
        let (kind, len) = (extra.number(at, 2)?, extra.number(at + 2, 2)? as usize);
        if kind == 1 {
            let mut field = at + 4;
            for n in out.iter_mut().filter(|n| **n == IN_EXTRA) {
                *n = extra.number(field, 8)?;
                field += 8;
            }
            return Ok(out);
        }
        at += 4 + len;
    }
    Ok(out)
}

/// The content behind the local header at `local`.
fn content(bytes: &Bytes<'_>, local: usize, size: usize) -> Result<Range<usize>> {
    bytes.at(local, LOCAL_BYTES)?;
    if bytes.number(local, 4)? != u64::from(LOCAL) || bytes.number(local + 8, 2)? != 0 {
        return Err(bytes.odd(&format!("no stored entry at byte {local}"), "copy it again"));
    }
    let (name, extra) = (bytes.number(local + 26, 2)?, bytes.number(local + 28, 2)?);
    let from = local + LOCAL_BYTES + name as usize + extra as usize;
    bytes.at(from, size)?;
    Ok(from..from + size)
}

/// Each byte of the file belongs to one entry at most: no file becomes larger by being read.
fn apart(bytes: &Bytes<'_>, found: &Entries) -> Result<()> {
    let mut ranges: Vec<&Range<usize>> = found.values().filter(|r| !r.is_empty()).collect();
    ranges.sort_by_key(|r| r.start);
    match ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
        Some(pair) => {
            let found = format!("entries that overlap at byte {}", pair[1].start);
            Err(bytes.odd(&found, "write it again"))
        }
        None => Ok(()),
    }
}
