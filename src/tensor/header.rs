//! The header of a `.safetensors` file, checked before anything believes it.

use crate::error::{Error, Result};
use std::{collections::HashSet, fmt, path::Path};

/// Longest header that is read, bytes (the limit of the format's own library).
const MAX_HEADER_BYTES: u64 = 100_000_000;

pub(super) fn header_text<'a>(path: &Path, all: &'a [u8]) -> Result<&'a [u8]> {
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

pub(super) fn no_duplicates(path: &Path, header: &[u8]) -> Result<()> {
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

pub(super) fn header_error(path: &Path, e: &safetensors::SafeTensorError) -> Error {
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

pub(super) fn truncated(path: &Path, found: &str) -> Error {
    format_error(path, found, "a whole .safetensors file", "the file is cut short; copy it again")
}

pub(super) fn format_error(path: &Path, found: &str, expected: &str, fix: &str) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        found: found.into(),
        expected: expected.into(),
        fix: fix.into(),
    }
}
