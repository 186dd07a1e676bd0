//! `selvedge score` on numbers that exist already.
#![allow(clippy::unwrap_used)]

use selvedge::tensor::{safetensors::Raw, write_safetensors};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

fn score(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).arg("score").args(args).output().unwrap()
}

fn answer(args: &[&str]) -> Value {
    let output = score(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refusal(args: &[&str]) -> String {
    let output = score(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn near(value: &Value, want: f64) {
    let got = value.as_f64().unwrap();
    assert!((got - want).abs() < 1e-3, "{got} {want}");
}

fn write(folder: &Path, name: &str, value: &Value) -> String {
    let path = folder.join(name);
    fs::write(&path, value.to_string()).unwrap();
    path.display().to_string()
}

#[test]
fn similarities_become_the_published_scores() {
    let folder = tempfile::tempdir().unwrap();
    let image = |name: &str, rows: Value| json!({"name": name, "similarity": rows});
    let file = json!({
        "ground_truth": [[0.78, 0.28], [0.28, 0.77]],
        "images": [
            image("b.png", json!([[0.72, 0.26], [0.29, 0.71]])),
            image("a.png", json!([[0.72, 0.29], [0.52, 0.41]])),
            image("none.png", json!([])),
        ],
    });
    let path = write(folder.path(), "in.json", &file);
    let scores = answer(&["--similarities", &path, "--json"]);
    assert_eq!(scores["ground_truth"], file["ground_truth"]);
    let images = scores["images"].as_array().unwrap();
    let names: Vec<&str> = images.iter().map(|i| i["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b.png", "a.png", "none.png"]);
    near(&images[0]["dc_spectral"], 0.9332);
    near(&images[0]["dc"], 0.88);
    near(&images[1]["dc_spectral"], 0.5653);
    near(&images[1]["dc_frobenius"], 0.563);
    assert_eq!(images[1]["similarity"], file["images"][1]["similarity"]);
    assert_eq!((&images[2]["boxes"], &images[2]["dc_max"]), (&json!(0), &json!(0.0)));
    near(&scores["mean"]["dc_spectral"], (0.9332 + 0.5653) / 3.0);
    let table = score(&["--similarities", &path]);
    let table = String::from_utf8(table.stdout).unwrap();
    let mean = table.lines().last().unwrap();
    assert!(mean.starts_with("mean") && mean.contains("0.4995"), "{table}");
}

#[test]
fn embeddings_become_similarities_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.safetensors");
    let tensors = [
        // subjects in alphabetical order: ada, bob
        ("references.bob", Raw::f32(&[1, 2], &[0.0, 4.0])),
        ("references.ada", Raw::f32(&[2, 2], &[2.0, 0.0, 0.0, 1.0])),
        ("crops.one.png", Raw::f32(&[1, 2], &[0.0, 5.0])),
        ("crops.none.png", Raw::f32(&[0, 2], &[])),
    ];
    let tensors = tensors.iter().map(|(n, t)| (*n, t));
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    let path = path.display().to_string();
    let scores = answer(&["--embeddings", &path, "--json"]);
    assert_eq!(scores["ground_truth"], json!([[0.5, 0.5], [0.5, 1.0]]));
    assert_eq!(scores["images"][0]["name"], "none.png");
    assert_eq!(scores["images"][1]["similarity"], json!([[0.5, 1.0]]));
    assert_eq!(scores["images"][1]["dc_spectral"], 0.0);
}

#[test]
fn numbers_that_do_not_fit_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let image = |rows: Value| json!([{"name": "a.png", "similarity": rows}]);
    for (value, word) in [
        (json!({"ground_truth": [], "images": image(json!([]))}), "no subject"),
        (json!({"ground_truth": [[1.0]], "images": []}), "pictures to score"),
        (json!({"ground_truth": [[1.0, 0.0]], "images": image(json!([]))}), "2 numbers in row 0"),
        (json!({"ground_truth": [[1.0]], "images": image(json!([[1.0, 2.0]]))}), "a.png"),
        (json!({"ground_truth": [[1.0]], "pictures": []}), "pictures"),
    ] {
        let error = refusal(&["--similarities", &write(folder.path(), "in.json", &value)]);
        assert!(error.contains(word) && error.lines().count() == 1, "{word}: {error}");
    }
    let huge = folder.path().join("huge.json");
    fs::write(&huge, r#"{"ground_truth": [[1e999]], "images": []}"#).unwrap();
    refusal(&["--similarities", &huge.display().to_string()]);
    refusal(&["--similarities", "/no/such.json"]);
    refusal(&["--embeddings", &huge.display().to_string()]);
    assert!(refusal(&[]).contains("--similarities"));

    let odd = folder.path().join("odd.safetensors");
    let path = odd.display().to_string();
    let width = |d: usize| Raw::f32(&[1, d], &vec![1.0; d]);
    for (names, word) in [
        (vec![("references.a", width(2)), ("crops.x", width(3))], "width 3"),
        (vec![("references.a", width(2))], "crops"),
        (vec![("references.a", width(2)), ("other", width(2))], "other"),
        (vec![("references.a", Raw::f32(&[0, 2], &[])), ("crops.x", width(2))], "no row"),
    ] {
        let tensors = names.iter().map(|(n, t)| (*n, t));
        write_safetensors(&odd, tensors, &BTreeMap::new()).unwrap();
        let error = refusal(&["--embeddings", &path]);
        assert!(error.contains(word), "{word}: {error}");
    }
}
