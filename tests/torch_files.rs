//! Torch files: every tensor as torch has it, nothing run, one clear line for everything else.
//!
//! The fixtures are written by `tools/fixtures/make_torch.py`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use selvedge::tensor::{open_weights, safetensors::Dtype};
use std::{fs, path::PathBuf};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch").join(name)
}

/// The message of a file that must be refused.
fn refusal(name: &str) -> String {
    let text = open_weights(fixture(name)).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn every_kind_of_tensor_is_what_torch_says() {
    let (got, want) = (
        open_weights(fixture("kinds.pth")).unwrap(),
        open_weights(fixture("kinds.safetensors")).unwrap(),
    );
    let names = |f: &selvedge::tensor::safetensors::SafeFile| -> Vec<String> {
        f.entries().keys().cloned().collect()
    };
    assert_eq!(names(&got), names(&want));
    for name in want.entries().keys() {
        assert_eq!(got.raw(name).unwrap(), want.raw(name).unwrap(), "{name}");
    }
    assert_eq!(got.entry("bool").unwrap().dtype, Dtype::BOOL);
}

#[test]
fn contiguous_floats_are_used_where_they_lie() {
    let file = open_weights(fixture("kinds.pth")).unwrap();
    for name in ["whole", "rows"] {
        let floats = file.stored(name).unwrap().floats();
        assert!(floats.is_ok(), "{name} is not aligned");
    }
}

#[test]
fn weights_are_found_in_their_wrappers() {
    for (file, name) in [
        ("model.pth", "w"),
        ("state_dict.pth.tar", "w"),
        ("teacher.pth", "w"),
        ("module.pt", "w"),
        ("nested.pt", "a.b.w"),
    ] {
        let open = open_weights(fixture(file)).unwrap();
        assert_eq!(open.entries().len(), 1, "{file}");
        assert_eq!(open.f32(name).unwrap().data, [0.0, 1.0, 2.0], "{file}");
    }
}

#[test]
fn code_is_refused_by_its_name_and_never_run() {
    let text = refusal("refused_code.pth");
    assert!(text.contains("print") && text.contains("nothing was run"), "{text}");
    let text = refusal("refused_class.pth");
    assert!(text.contains("Strange") && text.contains("nothing was run"), "{text}");
    assert!(refusal("refused_script.pt").contains("TorchScript"));
}

#[test]
fn other_files_are_named_for_what_they_are() {
    for (name, word) in [
        ("refused_legacy.pth", "before torch 1.6"),
        ("refused_circle.pth", "circle"),
        ("refused_empty.pth", "no tensors"),
        ("refused_deflated.pth", "compressed"),
    ] {
        let text = refusal(name);
        assert!(text.contains(word), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let onnx = folder.path().join("model.onnx");
    fs::write(&onnx, b"\x08\x07\x12\x07pytorch\x1a\x051.9.0").unwrap();
    assert!(open_weights(&onnx).unwrap_err().to_string().contains("ONNX"));
    let text = folder.path().join("weights.pth");
    fs::write(&text, "not found, said the server").unwrap();
    assert!(open_weights(&text).unwrap_err().to_string().contains("no zip archive"));
}

/// Reads a file with this content to its end; whatever comes, it must be a value.
fn survive(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changed.pth");
    fs::write(&path, bytes).unwrap();
    match open_weights(&path) {
        Ok(file) => file.entries().keys().for_each(|n| drop(file.raw(n).unwrap())),
        Err(e) => assert!(!e.to_string().contains('\n'), "{e}"),
    }
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    let all = fs::read(fixture("model.pth")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for len in (0..all.len()).step_by(7) {
        let path = folder.path().join("cut.pth");
        fs::write(&path, &all[..len]).unwrap();
        open_weights(&path).unwrap_err();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_changed_byte_brings_the_reader_down(at in 0usize..4096, byte: u8, second in 0usize..4096) {
        let mut all = fs::read(fixture("model.pth")).unwrap();
        let len = all.len();
        all[at % len] = byte;
        all[second % len] ^= 0xFF;
        survive(&all);
    }
}
