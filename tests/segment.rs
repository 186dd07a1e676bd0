//! `selvedge segment` with a prompt given by hand, on a small random SAM.
#![allow(clippy::unwrap_used)]

mod small_sam;

use selvedge::{
    data::{Subject, SubjectConfig},
    segment::frame::Frame,
    tensor::{
        Tensor,
        image::{Picture, read, write_png},
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
};
use serde_json::Value;
use small_sam::{error_of, refusal, sam, selvedge};
use std::{collections::BTreeMap, fs, path::Path, process::Command};

/// A photo in which every pixel differs.
fn photo(path: &Path, width: usize, height: usize) -> Picture {
    let mut photo = Picture::filled(width, height, 3, 0);
    for (i, v) in photo.data.iter_mut().enumerate() {
        *v = (i * 7919 % 251) as u8;
    }
    write_png(path, &photo, &[]).unwrap();
    photo
}

#[test]
fn the_mask_is_the_networks_at_the_photos_size() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    sam(&at("sam.safetensors"));
    let photo = photo(&at("dog.png"), 90, 50);
    let (model, out) = (text("sam.safetensors"), text("out"));
    let area = ["--box", "9,5,60,45", "--point", "30,20", "--point", "80,48,0"];
    let common = ["segment", &text("dog.png"), "--segmenter", &model, "--device", "cpu"];
    let run = selvedge(&[&common[..], &area[..], &["--out", &out]].concat());
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(at("out/dog_mask.png").is_file(), "{error}");
    let mask = read(&at("out/dog_mask.png")).unwrap();
    assert_eq!((mask.width, mask.height, mask.channels), (90, 50, 1));
    let inside = mask.data.iter().filter(|v| **v == 255).count();
    assert!(mask.data.iter().all(|v| *v == 0 || *v == 255));
    assert_eq!(run.status.code(), Some(i32::from(inside == 0)), "{error}");
    let listed: Value =
        serde_json::from_slice(&fs::read(at("out/segments.json")).unwrap()).unwrap();
    assert_eq!(listed[0]["prompt"]["box"], serde_json::json!([9.0, 5.0, 60.0, 45.0]));
    assert_eq!(read(&at("out/overlays/dog.png")).unwrap().channels, 3);

    // the same by `forward`, step by step
    let frame = Frame::fit([50, 90], [64, 144]);
    let pixels = Tensor { dims: vec![1, 64, 144, 3], data: frame.pixels(&photo) };
    let pixels = pixels.permuted(&[0, 3, 1, 2]);
    let forward = |part: &str, inputs: &[(&str, &Raw)]| {
        write_safetensors(at("in.safetensors"), inputs.iter().copied(), &BTreeMap::new()).unwrap();
        let (from, to) = (text("in.safetensors"), text("to.safetensors"));
        let args = ["forward", part, "--model", &model, "--inputs", &from, "--outputs", &to];
        let run = selvedge(&[&args[..], &["--device", "cpu"]].concat());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        SafeFile::open(at("to.safetensors")).unwrap()
    };
    let pixels = Raw::f32(&pixels.dims, &pixels.data);
    let encoded = forward("sam-image-encoder", &[("pixel_values", &pixels)]);
    let embeddings = encoded.raw("image_embeddings").unwrap();
    let place = |x: f64, y: f64| frame.place([x, y]);
    let boxes = [place(9.0, 5.0), place(60.0, 45.0)].concat();
    let points = [place(30.0, 20.0), place(80.0, 48.0)].concat();
    let masks = forward(
        "sam-mask-decoder",
        &[
            ("image_embeddings", &embeddings),
            ("input_boxes", &Raw::f32(&[1, 1, 4], &boxes)),
            ("input_points", &Raw::f32(&[1, 1, 2, 2], &points)),
            ("input_labels", &Raw::f32(&[1, 1, 2], &[1.0, 0.0])),
            ("multimask_output", &Raw::f32(&[1], &[0.0])),
        ],
    );
    let logits = masks.f32("pred_masks").unwrap();
    assert_eq!(logits.dims, [1, 1, 1, 16, 36]);
    let (low, high) =
        logits.data.iter().fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
    assert!(low < 0.0 && high > 0.0, "a mask with an edge: {low} {high}");
    assert_eq!(frame.mask(&logits.data, [16, 36]), mask);
    let quality = masks.f32("iou_scores").unwrap().data[0];
    assert_eq!(listed[0]["quality"].as_f64().unwrap() as f32, quality);
}

#[test]
fn masks_beside_the_photos_are_what_training_reads() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = at("sam.safetensors").display().to_string();
    sam(&at("sam.safetensors"));
    let photos = at("dog");
    fs::create_dir(&photos).unwrap();
    let out = photos.display().to_string();
    for (name, area) in [("00.png", "9,5,60,45"), ("01.png", "20,9,70,40"), ("00.png", "5,5,80,48")]
    {
        photo(&photos.join(name), 90, 50);
        let file = photos.join(name).display().to_string();
        let args = ["segment", &file, "--box", area, "--segmenter", &model, "--out", &out];
        let run = selvedge(&[&args[..], &["--device", "cpu"]].concat());
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }
    let config = SubjectConfig {
        id: "dog".into(),
        class: "dog".into(),
        images: photos,
        ..Default::default()
    };
    let mut warnings = vec![];
    let subject = Subject::load(&config, &mut warnings).unwrap();
    let names: Vec<&str> = subject.photos.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["00.png", "01.png"], "an overlay is no photo");
    assert!(subject.photos.iter().all(|p| p.mask.is_some()) && warnings.is_empty(), "{warnings:?}");
    // one entry a photo, the later one of 00.png
    let listed: Value =
        serde_json::from_slice(&fs::read(at("dog/segments.json")).unwrap()).unwrap();
    let boxes: Vec<&Value> =
        listed.as_array().unwrap().iter().map(|e| &e["prompt"]["box"][0]).collect();
    assert_eq!(boxes, [&serde_json::json!(20.0), &serde_json::json!(5.0)]);
    fs::write(at("dog/segments.json"), "not ours").unwrap();
    let file = at("dog/00.png").display().to_string();
    let error =
        refusal(&["segment", &file, "--point", "9,9", "--segmenter", &model, "--out", &out]);
    assert!(error.contains("segments.json"), "{error}");
}

#[test]
fn what_cannot_be_cut_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    sam(&at("sam.safetensors"));
    photo(&at("dog.png"), 90, 50);
    fs::write(at("text.png"), "no picture").unwrap();
    let (model, out, dog) = (text("sam.safetensors"), text("out"), text("dog.png"));
    let run = |photo: &str, segmenter: &str, more: &[&str]| {
        let args = ["segment", photo, "--segmenter", segmenter, "--out", &out];
        refusal(&[&args[..], more].concat())
    };
    assert!(run(&dog, &model, &[]).contains("neither"));
    assert!(run(&dog, &model, &["--box", "0,0,91,50"]).contains("0 to 90 across"));
    assert!(run(&dog, &model, &["--box", "5,5,5,9"]).contains("x0 < x1"));
    assert!(run(&dog, &model, &["--point", "-1,3"]).contains("--point"));
    assert!(run(&text("text.png"), &model, &["--point", "1,3"]).contains("no picture"));
    assert!(run(&dog, &text("none"), &["--point", "1,3"]).contains("none"));
    // a decoder of another width than the encoder
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sam");
    let encoder = fixtures.join("07-original-encoder").display().to_string();
    run(&dog, &encoder, &["--point", "1,3"]);
    assert!(!at("out").exists());
}

#[test]
fn the_page_shows_what_earlier_calls_cut_whatever_folder_they_ran_in() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let model = sam(&at("sam.safetensors"));
    for name in ["a.png", "b.png"] {
        photo(&at(name), 90, 50);
    }
    fs::create_dir(at("inner")).unwrap();
    for (name, cwd, out) in [("a.png", "", "out"), ("../b.png", "inner", "../out")] {
        let args = ["segment", name, "--box", "9,5,60,45", "--segmenter", &model, "--out", out];
        let run = Command::new(env!("CARGO_BIN_EXE_selvedge"))
            .args(args)
            .args(["--device", "cpu"])
            .current_dir(at(cwd))
            .output()
            .unwrap();
        assert_ne!(run.status.code(), Some(2), "{}", error_of(&run));
    }
    let page = fs::read_to_string(at("out/report.html")).unwrap();
    assert_eq!(page.matches("data:image/png").count(), 2);
}

#[cfg(feature = "emulate")]
#[test]
fn a_gpu_makes_the_mask_of_the_cpu_unless_less_precision_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    let model = sam(&at("sam.safetensors"));
    photo(&at("dog.png"), 90, 50);
    let quality = |device: &[&str]| {
        let out = text(&device.join("-"));
        let args = ["segment", &text("dog.png"), "--box", "9,5,60,45", "--segmenter", &model];
        let run = selvedge(&[&args[..], &["--out", &out, "--device"], device].concat());
        assert_ne!(run.status.code(), Some(2), "{}", error_of(&run));
        let list = fs::read(Path::new(&out).join("segments.json")).unwrap();
        let list: Value = serde_json::from_slice(&list).unwrap();
        list[0]["quality"].as_f64().unwrap()
    };
    let cpu = quality(&["cpu"]);
    let far = |device: &[&str]| ((quality(device) - cpu) / cpu).abs();
    assert!(far(&["emulated"]) < 1e-5, "not in f32");
    assert!(far(&["emulated", "--dtype", "bf16"]) > 1e-5, "--dtype does nothing");
}
