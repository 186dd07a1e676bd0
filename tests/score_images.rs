//! `selvedge score --images`: from pictures to scores, as transformers and the published code compute them.
#![allow(clippy::unwrap_used)]

use selvedge::{
    device::Device,
    metrics::{
        crops::extent,
        embedder::{Embedder, Kind},
        judge::Judge,
    },
    models::owlv2::Padding,
    segment::detector::{Detector, suppressed},
    tensor::{
        DType,
        image::{Picture, read, write_png},
    },
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(fixtures().join("judging/expected.json")).unwrap()).unwrap()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A folder with photos, subjects, pictures and boxes of the fixture.
struct Scene {
    folder: tempfile::TempDir,
    expected: Value,
}

impl Scene {
    fn new() -> Self {
        let (folder, expected) = (tempfile::tempdir().unwrap(), expected());
        let at = |inner: &str| folder.path().join(inner);
        let source = |name: &str| fixtures().join("images").join(name);
        let mut subjects = String::new();
        for (id, photos) in expected["subjects"].as_object().unwrap() {
            fs::create_dir(at(id)).unwrap();
            for photo in photos.as_array().unwrap() {
                let name = photo.as_str().unwrap();
                fs::copy(source(name), at(id).join(name)).unwrap();
            }
            let name = &expected["names"][id];
            subjects += &format!(
                "[[subject]]\nid = \"{id}\"\ntoken = {}\nclass = {}\nimages = \"{id}\"\n",
                name[0], name[1]
            );
        }
        fs::write(at("subjects.toml"), subjects).unwrap();
        let mut boxes = serde_json::Map::new();
        for shot in expected["shots"].as_array().unwrap() {
            let name = shot[0].as_str().unwrap();
            let picture = read(&source(shot[1].as_str().unwrap())).unwrap();
            let made = json!({"prompt": shot[3]}).to_string();
            write_png(&at("pictures").join(name), &picture, &[("selvedge".into(), made)]).unwrap();
            boxes.insert(name.into(), shot[2].clone());
        }
        fs::write(at("boxes.json"), Value::Object(boxes).to_string()).unwrap();
        Self { folder, expected }
    }

    fn at(&self, inner: &str) -> PathBuf {
        self.folder.path().join(inner)
    }

    fn score(&self, more: &[&str]) -> Output {
        let program = env!("CARGO_BIN_EXE_selvedge");
        let mut command = Command::new(program);
        command.args(["score", "--images", &text(&self.at("pictures")), "--device", "cpu"]);
        command.args(["--subjects", &text(&self.at("subjects.toml"))]);
        command.args(more).output().unwrap()
    }

    fn answer(&self, more: &[&str]) -> Value {
        let output = self.score(&[more, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The one line of a refusal.
    fn refusal(&self, more: &[&str]) -> String {
        let output = self.score(more);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{more:?}: {error}");
        let lines = error.lines().filter(|l| !l.starts_with("warning: "));
        assert!(!error.contains("panicked") && lines.count() == 1, "{error}");
        error
    }
}

fn judge(name: &str) -> String {
    text(&match name {
        "dreamsim" => fixtures().join("parity/tower-dreamsim/model"),
        "dino" => fixtures().join("parity/tower-dino-original/model.safetensors"),
        own => fixtures().join("judging").join(own),
    })
}

/// Every number of `want` is in `got`, at the same place.
fn assert_near(got: &Value, want: &Value, at: &str) {
    match want {
        Value::Object(all) => {
            all.iter().for_each(|(k, v)| assert_near(&got[k], v, &format!("{at}.{k}")));
        }
        Value::Array(all) => {
            assert_eq!(got.as_array().map(Vec::len), Some(all.len()), "{at}");
            all.iter().enumerate().for_each(|(i, v)| assert_near(&got[i], v, &format!("{at}.{i}")));
        }
        Value::Number(n) => {
            let (got, want) = (got.as_f64().unwrap_or(f64::NAN), n.as_f64().unwrap());
            assert!((got - want).abs() < 5e-6 * want.abs().max(1.0), "{at}: {got} {want}");
        }
        other => assert_eq!(got, other, "{at}"),
    }
}

#[test]
fn every_judge_says_what_the_published_code_says() {
    let scene = Scene::new();
    let boxes = text(&scene.at("boxes.json"));
    let paths = ["dreamsim", "dinov2", "dino", "clip", "imagereward"].map(judge);
    let [dreamsim, dinov2, dino, clip, reward] = &paths;
    let out = text(&scene.at("out"));
    let flags = ["--boxes", &boxes, "--dreamsim", dreamsim, "--dinov2", dinov2, "--dino", dino];
    let flags = [&flags[..], &["--clip", clip, "--imagereward", reward, "--out", &out]].concat();
    let got = scene.answer(&flags);
    let want = &scene.expected;
    assert_near(&got["embedders"], &want["embedders"], "embedders");
    assert_near(&got["text"]["images"], &want["plain"], "text");
    assert_eq!((&got["embedder"], &got["missing"]), (&json!("dreamsim"), &json!({})));
    assert_near(&got["images"], &without_whole(&want["embedders"]["dreamsim"]["images"]), "images");
    assert_near(&got["ground_truth"], &want["embedders"]["dreamsim"]["ground_truth"], "truth");

    // the same similarities, scored by the other way in
    let first = &want["embedders"]["dreamsim"];
    let numbers = json!({"ground_truth": first["ground_truth"],
        "images": without_whole(&first["images"])});
    fs::write(scene.at("numbers.json"), numbers.to_string()).unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["score", "--json", "--similarities", &text(&scene.at("numbers.json"))])
        .output()
        .unwrap();
    let other: Value = serde_json::from_slice(&program.stdout).unwrap();
    assert_near(&got["images"], &other["images"], "images");
    assert_near(&got["mean"], &other["mean"], "mean");
    assert_eq!(got["images"][2]["dc"], 0.0);

    // what was written says the same
    let lines = fs::read_to_string(scene.at("out/scores.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    for (line, image) in lines.iter().zip(got["images"].as_array().unwrap()) {
        assert_near(line, image, "scores.jsonl");
    }
    let page = fs::read_to_string(scene.at("out/score.html")).unwrap();
    let at = |name: &str| page.find(&format!("{name}; D")).unwrap();
    assert!(at("0003.png") < at("0001.png"), "the worst first");
    assert_eq!(page.matches("<rect").count(), 5);
    assert!(!page.contains("http"));
}

fn without_whole(images: &Value) -> Value {
    let image = |i: &Value| json!({"name": i["name"], "similarity": i["similarity"]});
    images.as_array().unwrap().iter().map(image).collect()
}

#[test]
fn identifiers_stay_when_they_are_asked_for() {
    let scene = Scene::new();
    let [clip, reward] = ["clip", "imagereward"].map(judge);
    let flags = ["--clip", &clip, "--imagereward", &reward, "--keep-tokens"];
    let got = scene.answer(&flags);
    assert_near(&got["text"]["images"], &scene.expected["keep"], "text");
    // nobody looked for boxes: named, and no number pretends
    assert!(got["missing"]["Detect-and-Compare"].as_str().unwrap().contains("--boxes"));
    assert_eq!(got["images"][0]["dc_spectral"], Value::Null);
    assert_eq!((&got["embedder"], &got["images"][0]["boxes"]), (&json!("clip"), &Value::Null));
    assert!(got["mean"]["similarity_clip"].is_number() && got["mean"]["dc"].is_null());
    let [low, high] = [0, 1].map(|i| got["interval"]["imagereward"][i].as_f64().unwrap());
    let mean = got["mean"]["imagereward"].as_f64().unwrap();
    assert!(low < mean && mean < high, "{low} {mean} {high}");
}

#[test]
fn what_is_missing_is_named_in_the_table() {
    let scene = Scene::new();
    let (boxes, dinov2) = (text(&scene.at("boxes.json")), judge("dinov2"));
    let output = scene.score(&["--boxes", &boxes, "--dinov2", &dinov2]);
    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["dreamsim", "dino", "clip", "CLIP score", "ImageReward"] {
        assert!(table.contains(&format!("not measured: {word} (")), "{word}: {table}");
    }
    assert!(table.contains("Detect-and-Compare by dinov2"), "{table}");
    // a CLIP without a text tower compares pictures and nothing else
    let clip = text(&fixtures().join("parity/tower-clip-image/model"));
    let got = scene.answer(&["--clip", &clip]);
    assert!(got["missing"]["CLIP score"].as_str().unwrap().contains("no text tower"));
    // a prompt that does not name a subject is a warning
    let output = scene.score(&["--clip", &judge("clip"), "--prompt", "a robot"]);
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(warning.contains("does not name subject a"), "{warning}");
}

#[test]
fn what_the_detector_finds_is_what_is_judged() {
    let scene = Scene::new();
    let model = fixtures().join("detect/model");
    let (path, dinov2) = (text(&model), judge("dinov2"));
    let found = |more: &[&str]| {
        let flags = ["--detector", path.as_str(), "--dinov2", dinov2.as_str()];
        scene.answer(&[&flags[..], more].concat())
    };
    let threshold = 0.55;
    let got = found(&["--threshold", "0.55"]);
    let mut detector = Detector::open(&model, Device::Cpu, DType::F32, Padding::Grey).unwrap();
    let photo = |id: &str, name: &Value| read(&scene.at(id).join(name.as_str().unwrap())).unwrap();
    let photos: Vec<Vec<Picture>> = (scene.expected["subjects"].as_object().unwrap().iter())
        .map(|(id, all)| all.as_array().unwrap().iter().map(|n| photo(id, n)).collect())
        .collect();
    let photos: Vec<Vec<&Picture>> = photos.iter().map(|all| all.iter().collect()).collect();
    let embedder =
        Embedder::open(Kind::Dinov2, Path::new(&dinov2), &Device::Cpu, DType::F32).unwrap();
    let mut judge = Judge::new(embedder, &photos).unwrap();
    let mut count = 0;
    for image in got["images"].as_array().unwrap() {
        let name = image["name"].as_str().unwrap();
        let picture = read(&scene.at("pictures").join(name)).unwrap();
        let mut want = detector.detect(&picture, &["monster toy", "robot"], threshold).unwrap();
        want.retain(|d| extent(d.uncut.0).is_ok());
        let all = image["detections"].as_array().unwrap();
        assert_eq!(all.len(), want.len());
        for (got, want) in all.iter().zip(&want) {
            let corners = want.uncut.0.map(|v| (v * 100.0).round() / 100.0);
            assert_near(&got["box"], &json!(corners), "box");
            assert_near(&got["score"], &json!(want.score), "score");
            assert_eq!(got["query"], ["monster toy", "robot"][want.query]);
        }
        count += want.len();
        let areas: Vec<[f64; 4]> = want.iter().map(|d| d.uncut.0).collect();
        let (similarity, scores) = judge.look(&picture, Some(&areas)).unwrap().boxes.unwrap();
        assert_near(&image["similarity"], &json!(similarity), "similarity");
        assert_near(&image["dc_spectral"], &json!(scores.dc_spectral), "score");
    }
    assert!(count > 0, "the threshold is too high for this detector");
    let black = found(&["--threshold", "0", "--padding", "black"]);
    let grey = found(&["--threshold", "0"]);
    assert_ne!(black["images"][0]["detections"], grey["images"][0]["detections"]);
    let asked = found(&["--threshold", "0", "--query", "toy"]);
    let all = asked["images"][0]["detections"].as_array().unwrap();
    assert!(!all.is_empty() && all.iter().all(|d| d["query"] == "toy"), "{all:?}");
    // boxes of one thing are one when asked for
    let few = found(&["--threshold", "0", "--nms", "0.1"]);
    let one = |all: &Value| all["images"][0]["detections"].as_array().unwrap().len();
    let picture = read(&scene.at("pictures").join("0001.png")).unwrap();
    let all = detector.detect(&picture, &["monster toy", "robot"], 0.0).unwrap();
    let mut kept = suppressed(all, 0.1);
    kept.retain(|d| extent(d.uncut.0).is_ok());
    assert_eq!(few["images"][0]["name"], "0001.png");
    assert!(one(&few) == kept.len() && kept.len() < one(&grey), "{few}");
    assert_eq!(found(&["--threshold", "0", "--nms", "1"])["images"], grey["images"]);
    for flag in ["--threshold", "--nms"] {
        let refused = scene.refusal(&["--detector", &path, flag, "1.5"]);
        assert!(refused.contains(flag), "{refused}");
    }
}

#[test]
fn input_that_cannot_be_used_is_one_clear_line() {
    let scene = Scene::new();
    let (dinov2, reward) = (judge("dinov2"), judge("imagereward"));
    let own = ["--dinov2", dinov2.as_str()];
    assert!(scene.refusal(&[]).contains("no model"));
    let other = scene.refusal(&["--dinov2", &judge("clip")]);
    assert!(other.contains("model_type") && other.contains("clip"), "{other}");
    assert!(scene.refusal(&["--dreamsim", &dinov2]).contains("dino_vitb16_pretrain"));
    assert!(scene.refusal(&["--imagereward", &dinov2]).contains("ImageReward"));

    let boxes = scene.at("wrong.json");
    let all = |first: Value| json!({"0001.png": first, "0002.png": [], "0003.png": []});
    for (value, word) in [
        (all(json!([[50, 0, 60, 10]])), "a box in the picture, 37 wide and 30 high"),
        (all(json!([[5, 5, 3, 10]])), "x0 < x1"),
        (all(json!([[5, 5, 5.2, 10]])), "whole pixels"),
        (all(json!([[5, 5, 9]])), "[[x0, y0, x1, y1], ...]"),
        (json!({"0001.png": []}), "0002.png: no entry"),
        (json!({"0009.png": []}), "no such picture"),
    ] {
        fs::write(&boxes, value.to_string()).unwrap();
        let error = scene.refusal(&[&own[..], &["--boxes", &text(&boxes)]].concat());
        assert!(error.contains(word), "{word}: {error}");
    }

    let plain = scene.at("pictures/plain.png");
    write_png(&plain, &Picture::filled(9, 9, 1, 3), &[]).unwrap();
    assert!(scene.refusal(&["--imagereward", &reward]).contains("plain.png: no prompt"));
    fs::write(&plain, "no picture").unwrap();
    assert!(scene.refusal(&own).contains("plain.png: no picture"));
    fs::remove_dir_all(scene.at("pictures")).unwrap();
    assert!(scene.refusal(&own).contains("pictures"));
    fs::create_dir(scene.at("pictures")).unwrap();
    assert!(scene.refusal(&own).contains("no pictures"));
    fs::remove_dir_all(scene.at("b")).unwrap();
    fs::create_dir(scene.at("b")).unwrap();
    assert!(scene.refusal(&own).contains("put photos of subject b there"));
}

#[test]
fn turned_grey_deep_and_transparent_pictures_are_pictures() {
    let scene = Scene::new();
    fs::remove_dir_all(scene.at("pictures")).unwrap();
    fs::create_dir(scene.at("pictures")).unwrap();
    let names = ["upright.jpg", "turned6.jpg", "gray.jpg", "gray16.png", "gray_alpha.png"];
    for name in names {
        let to = scene.at("pictures").join(name);
        fs::copy(fixtures().join("images").join(name), to).unwrap();
    }
    let got = scene.answer(&["--dinov2", &judge("dinov2")]);
    let whole: Vec<f64> = got["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["similarity_dinov2"].as_f64().unwrap())
        .collect();
    assert_eq!(whole.len(), names.len());
    assert!(whole.iter().all(|v| v.is_finite()));
    // by name: gray.jpg, gray16.png, gray_alpha.png, turned6.jpg, upright.jpg
    assert!((whole[3] - whole[4]).abs() < 0.02, "{whole:?}");
}

#[test]
fn numbers_are_not_computed_on_a_device() {
    let program = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["score", "--similarities", "x.json", "--device", "cpu"])
        .output()
        .unwrap();
    let error = String::from_utf8(program.stderr).unwrap();
    assert!(error.contains("only pictures are computed"), "{error}");
    let program = Command::new(env!("CARGO_BIN_EXE_selvedge"))
        .args(["score", "--similarities", "x.json", "--prompt", "a dog"])
        .output()
        .unwrap();
    assert_eq!(program.status.code(), Some(2));
}
