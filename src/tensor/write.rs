//! Writing `.safetensors` files, whole or not at all.

use super::{
    atomic::atomic_write,
    safetensors::{Dtype, Raw},
};
use crate::error::{Error, Result};
use std::{collections::BTreeMap, io::Write, path::Path};

/// Writes `tensors` and the text pairs `metadata` to `path` with [`atomic_write`].
///
/// The bytes depend only on the content: tensors are laid out by element size, then name, and the
/// header is padded to 8 bytes, so two files with the same tensors are equal.
///
/// # Errors
/// [`Error::File`] when the disk refuses (nothing half-written is left); [`Error::Data`] when a
/// name occurs twice, is `__metadata__`, or a byte count is not shape times type.
pub fn write_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a Raw)>,
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let path = path.as_ref();
    let (mut all, mut list) = (BTreeMap::<&str, &Raw>::new(), vec![]);
    for (name, raw) in tensors {
        let want = elements_bytes(raw.dtype, &raw.dims);
        if want != Some(raw.bytes.len()) {
            let found = format!("{} bytes for {:?} {:?}", raw.bytes.len(), raw.dtype, raw.dims);
            return Err(bad(path, name, found, "shape times type"));
        }
        list.push((name, raw.dtype, raw.dims.as_slice()));
        all.insert(name, raw);
    }
    let bytes = |name: &str| all.get(name).map_or(&[][..], |raw| &raw.bytes);
    write_listed(path, list, metadata, &mut |w, (name, ..)| Ok(w.write_all(bytes(name))))
}

/// One tensor of a file to be: name, type, dims.
pub type Listed<'a> = (&'a str, Dtype, &'a [usize]);

/// The content of the tensor with this name and these dims.
pub type BytesOf<'b> = dyn FnMut(&str, &[usize]) -> Result<Vec<u8>> + 'b;

/// As [`write_safetensors`], with one tensor in memory at a time: `bytes` is asked for each in the order of the
/// file.
///
/// # Errors
/// As [`write_safetensors`], and those of `bytes`.
pub fn write_safetensors_from(
    path: impl AsRef<Path>,
    tensors: &[Listed<'_>],
    metadata: &BTreeMap<String, String>,
    bytes: &mut BytesOf<'_>,
) -> Result<()> {
    let path = path.as_ref();
    write_listed(path, tensors.to_vec(), metadata, &mut |w, (name, dtype, dims)| {
        let own = bytes(name, dims)?;
        if elements_bytes(dtype, dims) != Some(own.len()) {
            let found = format!("{} bytes for {dtype:?} {dims:?}", own.len());
            return Err(bad(path, name, found, "shape times type"));
        }
        Ok(w.write_all(&own))
    })
}

type Body<'b> = dyn FnMut(&mut dyn Write, Listed<'_>) -> Result<std::io::Result<()>> + 'b;

fn write_listed(
    path: &Path,
    mut list: Vec<Listed<'_>>,
    metadata: &BTreeMap<String, String>,
    body: &mut Body<'_>,
) -> Result<()> {
    list.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
    let header = header(path, &list, metadata)?;
    let mut failed = None;
    let written = atomic_write(path, |w| {
        w.write_all(&(header.len() as u64).to_le_bytes())?;
        w.write_all(&header)?;
        list.iter().try_for_each(|one| {
            body(w, *one).unwrap_or_else(|e| {
                failed = Some(e);
                Err(std::io::Error::other("a tensor could not be read"))
            })
        })
    });
    failed.map_or(written, Err)
}

fn header(
    path: &Path,
    list: &[Listed<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let mut map = serde_json::Map::new();
    if !metadata.is_empty() {
        map.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut at = 0;
    for (name, dtype, dims) in list {
        let bytes = elements_bytes(*dtype, dims);
        let bytes = bytes
            .ok_or_else(|| bad(path, name, format!("{dtype:?} {dims:?}"), "shape times type"))?;
        let end = at + bytes;
        let info = serde_json::json!({
            "dtype": dtype, "shape": dims, "data_offsets": [at, end],
        });
        if *name == "__metadata__" || map.insert((*name).into(), info).is_some() {
            return Err(bad(path, name, "a name that is taken".into(), "each name once"));
        }
        at = end;
    }
    let mut text = serde_json::Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    Ok(text)
}

/// Bytes that shape and type ask for; `None` on overflow or for types below a byte.
fn elements_bytes(dtype: Dtype, dims: &[usize]) -> Option<usize> {
    let bits: usize = match dtype {
        Dtype::F32 | Dtype::I32 | Dtype::U32 => 32,
        Dtype::F16 | Dtype::BF16 | Dtype::I16 | Dtype::U16 => 16,
        Dtype::F64 | Dtype::I64 | Dtype::U64 => 64,
        Dtype::U8 | Dtype::I8 | Dtype::BOOL => 8,
        _ => return None,
    };
    dims.iter().try_fold(bits / 8, |n, d| n.checked_mul(*d))
}

fn bad(path: &Path, name: &str, found: String, expected: &str) -> Error {
    Error::Data {
        at: format!("{}: {name}", path.display()),
        found,
        expected: expected.into(),
        fix: "check the tensor before writing".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::safetensors::SafeFile, *};
    use proptest::prelude::*;

    fn sample() -> (Vec<(String, Raw)>, BTreeMap<String, String>) {
        let data: Vec<f32> = (0..6).map(|i| i as f32 * 0.37 - 1.0).collect();
        let tensors = vec![
            ("b.half".to_string(), Raw::rounded(&[2, 3], &data, Dtype::F16)),
            ("a.full".to_string(), Raw::f32(&[3, 2], &data)),
            ("c.brain".to_string(), Raw::rounded(&[6], &data, Dtype::BF16)),
            ("ids".to_string(), Raw::i64(&[2], &[1, 49407])),
            ("rows".to_string(), Raw::i32(&[1], &[-3])),
            ("alpha".to_string(), Raw::f32(&[], &[16.0])),
            ("none".to_string(), Raw::f32(&[0, 4], &[])),
        ];
        (tensors, BTreeMap::from([("made by".into(), "a test, \"quoted\"".into())]))
    }

    fn bytes_of(tensors: &[(String, Raw)], metadata: &BTreeMap<String, String>) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, tensors.iter().map(|(n, r)| (n.as_str(), r)), metadata).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_bit_for_bit_in_any_order() {
        let (mut tensors, metadata) = sample();
        let bytes = bytes_of(&tensors, &metadata);
        let file = SafeFile::from_bytes("x", bytes.clone()).unwrap();
        for (name, raw) in &tensors {
            assert_eq!(&file.raw(name).unwrap(), raw, "{name}");
        }
        assert_eq!(file.metadata(), &metadata);
        assert_eq!(file.f32("alpha").unwrap().data, [16.0]);
        assert_eq!(file.i64("ids").unwrap(), [1, 49407]);
        assert_eq!(file.i64("rows").unwrap(), [-3]);
        assert!((file.f32("b.half").unwrap().data[5] - 0.85).abs() < 1e-3);
        tensors.reverse();
        assert_eq!(bytes_of(&tensors, &metadata), bytes);
    }

    #[test]
    fn the_reference_library_reads_our_files() {
        let (tensors, metadata) = sample();
        let bytes = bytes_of(&tensors, &metadata);
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), tensors.len());
        assert_eq!(theirs.tensor("b.half").unwrap().data(), &tensors[0].1.bytes[..]);
    }

    #[test]
    fn wrong_types_and_missing_names_are_typed_errors() {
        let (tensors, metadata) = sample();
        let file = SafeFile::from_bytes("x", bytes_of(&tensors, &metadata)).unwrap();
        assert!(matches!(file.f32("ids"), Err(Error::DType { .. })));
        assert!(matches!(file.i32("a.full"), Err(Error::DType { .. })));
        assert!(matches!(file.i64("a.full"), Err(Error::DType { .. })));
        assert!(matches!(file.f32("nobody"), Err(Error::Weights { .. })));
    }

    #[test]
    fn a_wrong_byte_count_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let raw = Raw { dtype: Dtype::F32, dims: vec![3], bytes: vec![0; 8] };
        let error = write_safetensors(&path, [("t", &raw)], &BTreeMap::new()).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error}");
        assert!(!path.exists());
        let one = Raw::f32(&[1], &[0.0]);
        assert!(write_safetensors(&path, [("t", &one), ("t", &one)], &BTreeMap::new()).is_err());
    }

    fn file_of(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn hostile_headers_are_format_errors_that_say_what_is_wrong() {
        let t = |shape: &str, from: usize, to: usize| {
            format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
        };
        let one = t("[1]", 0, 4);
        let huge = (u64::MAX).to_le_bytes().to_vec();
        let mut big = 200_000_000u64.to_le_bytes().to_vec();
        big.extend([b' '; 16]);
        let mut not_utf8 = file_of("{    }", 0);
        not_utf8[10] = 0xff;
        let overflow = "[9223372036854775807,9223372036854775807]";
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("empty", vec![], "cut short"),
            ("seven bytes", vec![1; 7], "cut short"),
            ("endless header", huge, "100 MB"),
            ("200 MB header", big, "100 MB"),
            ("header past the end", file_of("{}", 0)[..9].to_vec(), "cut short"),
            ("not UTF-8", not_utf8, "UTF-8"),
            ("no JSON", file_of("{\"a\":", 0), "JSON"),
            ("an array", file_of("[1,2]", 0), "JSON"),
            ("deep nesting", file_of(&"[".repeat(100_000), 0), "JSON"),
            ("overlap", file_of(&format!(r#"{{"a":{one},"b":{one}}}"#), 8), "offsets"),
            ("twice", file_of(&format!(r#"{{"a":{one},"a":{one}}}"#), 4), "twice"),
            ("hole", file_of(&format!(r#"{{"a":{one},"b":{}}}"#, t("[1]", 8, 12)), 12), "offsets"),
            ("data cut", file_of(&format!(r#"{{"a":{one}}}"#), 3), "cut short"),
            ("data left over", file_of(&format!(r#"{{"a":{one}}}"#), 5), "another length"),
            ("past the end", file_of(&format!(r#"{{"a":{}}}"#, t("[100]", 0, 400)), 4), "length"),
            ("wrong count", file_of(&format!(r#"{{"a":{}}}"#, t("[2]", 0, 4)), 4), "bad header"),
            ("backwards", file_of(&format!(r#"{{"a":{}}}"#, t("[1]", 4, 0)), 4), "offsets"),
            ("overflow", file_of(&format!(r#"{{"a":{}}}"#, t(overflow, 0, 4)), 4), "bad header"),
            ("unknown type", file_of(&one.replace("F32", "F31"), 4), "bad header"),
        ];
        for (name, bytes, needle) in cases {
            match SafeFile::from_bytes("hostile.safetensors", bytes) {
                Err(e @ Error::Format { .. }) => {
                    assert!(e.to_string().contains(needle), "{name}: {e}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    #[test]
    fn missing_files_and_folders_are_typed_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(SafeFile::open(dir.path().join("no")), Err(Error::File { .. })));
        assert!(matches!(SafeFile::open(dir.path()), Err(Error::Format { .. })));
        let short = dir.path().join("short");
        std::fs::write(&short, b"abc").unwrap();
        assert!(matches!(SafeFile::open(&short), Err(Error::Format { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = SafeFile::from_bytes("x", bytes);
        }

        #[test]
        fn corrupted_files_never_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<prop::sample::Index>(),
            cut_it in any::<bool>(),
        ) {
            let (tensors, metadata) = sample();
            let mut bytes = bytes_of(&tensors, &metadata);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if cut_it {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(file) = SafeFile::from_bytes("x", bytes) {
                for name in file.entries().keys() {
                    let _ = (file.f32(name), file.i32(name), file.i64(name), file.raw(name));
                }
            }
        }
    }
}
