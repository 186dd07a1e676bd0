//! Finding what words name: photos as the network takes them, boxes as transformers gives them, one clear line for a
//! detector that is none.
#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    models::owlv2::{Padding, photo_pixels},
    segment::{detector::Detector, prompt::Rectangle},
    tensor::{DType, image::Picture, safetensors::SafeFile},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/detect")
}

fn open(path: &Path, padding: Padding) -> Result<Detector, String> {
    Detector::open(path, Device::Cpu, DType::F32, padding).map_err(|e| e.to_string())
}

fn photos() -> (SafeFile, Vec<Picture>) {
    let file = SafeFile::open(fixtures().join("photos.safetensors")).unwrap();
    let photo = |n: usize| {
        let raw = file.raw(&format!("photo.{n}")).ok()?;
        let [h, w, 3] = raw.dims[..] else { panic!("{:?}", raw.dims) };
        Picture::new(w, h, 3, raw.bytes.to_vec())
    };
    let all: Vec<Picture> = (0..).map_while(photo).collect();
    assert_eq!(all.len(), 7);
    (file, all)
}

#[test]
fn photos_are_padded_filtered_and_resized_as_transformers_does() {
    let (file, all) = photos();
    for (n, photo) in all.iter().enumerate() {
        for padding in [Padding::Grey, Padding::Black] {
            let want = file.f32(&format!("{padding}.{n}")).unwrap().permuted(&[1, 2, 0]);
            let got = photo_pixels(photo, 32, padding);
            let worst = got.iter().zip(&want.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(got.len() == want.data.len() && worst < 2e-5, "{n} {padding}: {worst:e}");
        }
    }
}

#[test]
fn boxes_scores_and_queries_are_those_of_transformers() {
    let expected: Value =
        serde_json::from_slice(&fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let queries: Vec<&str> =
        expected["queries"].as_array().unwrap().iter().map(|q| q.as_str().unwrap()).collect();
    let threshold = expected["threshold"].as_f64().unwrap();
    let (_, all) = photos();
    let mut compared = 0;
    for padding in [Padding::Grey, Padding::Black] {
        let mut detector = open(&fixtures().join("model"), padding).unwrap();
        for case in expected["found"].as_array().unwrap() {
            if case["padding"] != padding.to_string() {
                continue;
            }
            let photo = &all[case["photo"].as_u64().unwrap() as usize];
            let found = detector.detect(photo, &queries, threshold).unwrap();
            let want = case["detections"].as_array().unwrap();
            assert_eq!(found.len(), want.len(), "{case}");
            for (a, b) in found.iter().zip(want) {
                assert!((a.score - b["score"].as_f64().unwrap()).abs() < 1e-5, "{a:?} {b}");
                assert_eq!(a.query as u64, b["query"].as_u64().unwrap());
                let Rectangle(area) = a.area;
                for (i, v) in area.iter().enumerate() {
                    let most = [photo.width, photo.height][i % 2] as f64;
                    let want = b["box"][i].as_f64().unwrap().clamp(0.0, most);
                    assert!((v - want).abs() < 1e-3 * most.max(1.0), "{a:?} {b}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
}

#[test]
fn one_detector_answers_any_number_of_queries() {
    let (_, all) = photos();
    let mut detector = open(&fixtures().join("model"), Padding::Grey).unwrap();
    let alone = detector.detect(&all[0], &["dog"], 0.0).unwrap();
    assert_eq!(alone.len(), 16, "a box a patch");
    let words = vec!["dog".to_string(), "a red bear".into()];
    let both = detector.detect(&all[0], &words, 0.0).unwrap();
    let again = detector.detect(&all[0], &["dog"], 0.0).unwrap();
    assert!(alone == again && both.iter().any(|d| d.query == 1));
    assert!(detector.detect(&all[0], &["dog"], 1.0).unwrap().is_empty());
    let none: [&str; 0] = [];
    let error = detector.detect(&all[0], &none, 0.2).unwrap_err().to_string();
    assert!(error.contains("at least one text"), "{error}");
    let long = "a b c d e f g h i j k l m n o p";
    let error = detector.detect(&all[0], &[long], 0.2).unwrap_err().to_string();
    assert!(error.contains("at most 14 tokens") && error.contains(long), "{error}");
}

#[cfg(feature = "emulate")]
#[test]
fn kernels_find_what_the_cpu_finds() {
    let (_, all) = photos();
    let path = fixtures().join("model");
    let mut cpu = open(&path, Padding::Grey).unwrap();
    let want = cpu.detect(&all[0], &["dog", "a red bear"], 0.0).unwrap();
    for (dtype, most) in [(DType::F32, 1e-4), (DType::F16, 1e-2), (DType::Bf16, 6e-2)] {
        let device = Device::parse("emulated").unwrap();
        let mut detector = Detector::open(&path, device, dtype, Padding::Grey).unwrap();
        let found = detector.detect(&all[0], &["dog", "a red bear"], 0.0).unwrap();
        assert_eq!(found.len(), want.len());
        for (a, b) in found.iter().zip(&want) {
            assert!((a.score - b.score).abs() < most, "{dtype}: {a:?} {b:?}");
        }
    }
}

/// A copy of the model without `left_out`.
fn copy(left_out: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("model")).unwrap().map(|e| e.unwrap()) {
        if !left_out.contains(&entry.file_name().to_str().unwrap()) {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

#[test]
fn a_folder_that_is_no_detector_is_one_clear_line() {
    let refusal = |folder: &Path| {
        let error = open(folder, Padding::Grey).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let folder = copy(&["vocab.json", "merges.txt"]);
    let error = refusal(folder.path());
    assert!(error.contains("tokenizer") && error.contains("vocab.json"), "{error}");
    let folder = copy(&["merges.txt"]);
    assert!(refusal(folder.path()).contains("merges.txt"));
    let folder = copy(&["config.json"]);
    assert!(refusal(folder.path()).contains("no config.json"));
    // weights of another kind, under either name
    let folder = copy(&["model.safetensors"]);
    fs::write(folder.path().join("model.onnx"), b"\x08\x07\x12\x07pytorch").unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("safetensors"), "{error}");
    fs::write(folder.path().join("model.safetensors"), b"\x08\x07\x12\x07pytorch\x1a\x052.9")
        .unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("model.safetensors"), "{error}");
    let error = refusal(&folder.path().join("model.onnx"));
    assert!(error.contains("model.onnx"), "{error}");
    // another model's tokenizer
    let folder = copy(&["vocab.json"]);
    let table = fs::read_to_string(fixtures().join("model/vocab.json")).unwrap();
    let more = table.trim_end().trim_end_matches('}').to_string() + ", \"zebra</w>\": 60000}";
    fs::write(folder.path().join("vocab.json"), more).unwrap();
    let error = refusal(folder.path());
    assert!(error.contains("tokens") && error.contains("rows of the model's table"), "{error}");
}
