//! Pictures become what the towers take, as transformers and the published code make it.
#![allow(clippy::unwrap_used)]

use selvedge::{
    models::{checkpoint::Component, towers::Preparation},
    tensor::image::{Picture, read},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{fmt::Write as _, fs, path::Path};

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn component(word: &str) -> Component {
    let all = [
        Component::ClipImage,
        Component::Dinov2,
        Component::Dino,
        Component::DreamSim,
        Component::ImageReward,
    ];
    all.into_iter().find(|c| c.name().replace('_', "-") == word).unwrap()
}

fn picture(name: &str) -> Picture {
    let file = |name: &str| read(&fixtures().join("images").join(name)).unwrap();
    match name {
        "wide.png" => file("rgb.png").crop(0, 3, 37, 17),
        _ => file(name),
    }
}

#[test]
fn prepared_pictures_are_those_of_the_published_code() {
    let text = fs::read(fixtures().join("preparations.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&text).unwrap();
    assert!(cases.len() >= 70);
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        if !case["config"].is_null() {
            let path = folder.path().join("preprocessor_config.json");
            fs::write(path, case["config"].to_string()).unwrap();
        }
        let number = |v: &Value| usize::try_from(v.as_u64().unwrap()).unwrap();
        let kind = component(case["component"].as_str().unwrap());
        let side = number(&case["side"]);
        let preparation = Preparation::of(kind, folder.path(), [side; 2]).unwrap();
        let frame = preparation.frame(&picture(case["picture"].as_str().unwrap())).unwrap();
        let what = format!("{} {} {}", case["picture"], case["component"], case["config"]);
        assert_eq!(json!([frame.height, frame.width]), case["size"], "{what}");
        let hash = Sha256::digest(&frame.data).iter().fold(String::new(), |mut text, b| {
            write!(text, "{b:02x}").unwrap();
            text
        });
        assert_eq!(hash, case["sha256"].as_str().unwrap(), "{what}");
        let got = preparation.samples(&frame);
        let got = got.iter().step_by(number(&case["step"]));
        let want = case["samples"].as_array().unwrap();
        assert_eq!(got.len(), want.len());
        for (got, want) in got.zip(want) {
            let (got, want) = (f64::from(*got), want.as_f64().unwrap());
            assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{what}: {got} {want}");
        }
    }
}

#[test]
fn a_key_that_is_not_understood_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, config: Value, word: &str| {
        fs::write(folder.path().join(name), config.to_string()).unwrap();
        let of = Preparation::of(Component::ClipImage, folder.path(), [224; 2]);
        let error = of.unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        fs::remove_file(folder.path().join(name)).unwrap();
    };
    for (config, word) in [
        (json!({"do_flip": true}), "do_flip"),
        (json!({"resample": 5}), "resample"),
        (json!({"size": {"longest_edge": 30}}), "size"),
        (json!({"size": 0}), "size"),
        (json!({"size": 1_000_000}), "1 to 32768"),
        (json!({"crop_size": {"shortest_edge": 30}}), "crop_size"),
        (json!({"image_std": [1.0, 0.0, 1.0]}), "image_std"),
        (json!({"image_mean": [1.0, 0.0]}), "image_mean"),
        (json!({"do_pad": true}), "do_pad"),
        (json!({"image_processor_type": "SamImageProcessor"}), "SamImageProcessor"),
    ] {
        refused("preprocessor_config.json", config, word);
    }
    let own = |key: &str, value: &str| json!({"preprocess_cfg": {key: value}});
    refused("open_clip_config.json", own("interpolation", "bilinear"), "interpolation");
    refused("open_clip_config.json", own("strange", "yes"), "strange");
}

#[test]
fn open_clip_says_its_own_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let of = || Preparation::of(Component::ClipImage, folder.path(), [224; 2]).unwrap();
    let usual = of();
    let config = json!({"model_cfg": {}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "shortest"}});
    fs::write(folder.path().join("open_clip_config.json"), config.to_string()).unwrap();
    let own = of();
    let white = Picture::filled(2, 2, 3, 255);
    assert_eq!(own.samples(&white), [1.0; 12]);
    assert!((usual.samples(&white)[0] - 1.9303).abs() < 1e-4);
}

#[test]
fn a_picture_too_narrow_to_grow_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let preparation = Preparation::of(Component::Dinov2, folder.path(), [224; 2]).unwrap();
    let error = preparation.frame(&Picture::filled(1, 30_000, 3, 9)).unwrap_err().to_string();
    assert!(error.contains("1 x 30000 pixels"), "{error}");
    let frame = preparation.frame(&Picture::filled(1, 1, 1, 9)).unwrap();
    assert_eq!((frame.width, frame.height, frame.at(100, 5)), (224, 224, &[9, 9, 9][..]));
}
