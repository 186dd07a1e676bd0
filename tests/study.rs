//! `selvedge evaluate study` and `correlate`: a page without method names, and planted answers found again.
#![allow(clippy::unwrap_used)]

use selvedge::tensor::image::{Picture, write_png};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn evaluate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).arg("evaluate").args(args).output().unwrap()
}

fn refusal(args: &[&str]) -> String {
    let output = evaluate(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{error}");
    error
}

fn pictures(folder: &Path, count: usize) -> String {
    fs::create_dir(folder).unwrap();
    for i in 0..count {
        let picture = Picture::filled(8, 8, 3, i as u8);
        write_png(&folder.join(format!("{i:05}.png")), &picture, &[]).unwrap();
    }
    folder.display().to_string()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn planted_answers_come_back_and_the_page_is_blind() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (ours, plain) = (pictures(&at("a"), 6), pictures(&at("b"), 7));
    let (ours, plain) = (format!("oursecret={ours}"), format!("plainsecret={plain}"));
    let out = at("study").display().to_string();
    let made =
        evaluate(&["study", &ours, &plain, "--out", &out, "--count", "5", "--prompt", "a < b"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));

    let page = fs::read_to_string(at("study").join("study.html")).unwrap();
    assert!(!page.contains("secret") && !page.contains("0000") && page.contains("a &lt; b"));
    assert!(!page.contains("http"), "nothing from outside");
    let key = read(&at("study").join("key.json"));
    let questions = key["questions"].as_array().unwrap();
    assert_eq!(questions.len(), 5 * 2 + 5);
    assert_eq!(page.matches("type=radio").count(), 10 * 2 + 5 * 3 * 3);

    // people say yes to ours, no to the plain ones but one, and prefer ours by its subjects
    let mut answers = serde_json::Map::new();
    let mut lucky = None;
    for (i, q) in questions.iter().enumerate() {
        if let Some(item) = q.get("fidelity") {
            let plain = item["method"] == "plainsecret";
            let yes = !plain || *lucky.get_or_insert(i) == i;
            answers.insert(format!("q{i}"), json!(if yes { "yes" } else { "no" }));
        } else {
            let left = q["pair"]["left"]["method"] == "oursecret";
            answers.insert(format!("q{i}.subjects"), json!(if left { "left" } else { "right" }));
            answers.insert(format!("q{i}.image"), json!("neither"));
        }
    }
    let saved = |name: &str, study: &Value, answers: &Value| {
        let path = at(name);
        fs::write(&path, json!({"study": study, "answers": answers}).to_string()).unwrap();
        path.display().to_string()
    };
    let answers = Value::Object(answers);
    let answered = saved("answers.json", &key["study"], &answers);
    let scores = |method: &str, value: &dyn Fn(usize) -> f64| {
        let image = |i: usize| json!({"name": format!("{i:05}.png"), "boxes": 2, "dc": value(i), "dc_max": null});
        let images: Vec<Value> = (0..7).map(image).collect();
        let path = at(&format!("{method}.json"));
        fs::write(&path, json!({"images": images}).to_string()).unwrap();
        format!("{method}={}", path.display())
    };
    let good = scores("oursecret", &|i| 0.8 + 0.01 * i as f64);
    let bad = scores("plainsecret", &|i| 0.1 + 0.01 * i as f64);
    let keyed = at("study").join("key.json").display().to_string();
    let args = ["correlate", &answered, "--key", &keyed, "--scores", &good, "--scores", &bad];
    let result = evaluate(&[&args[..], &["--json"]].concat());
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    let result: Value = serde_json::from_slice(&result.stdout).unwrap();
    assert_eq!(result["fidelity"]["oursecret"], json!({"yes": 5, "answers": 5}));
    assert_eq!(result["fidelity"]["plainsecret"], json!({"yes": 1, "answers": 5}));
    let by = |c: &str| {
        result["preferences"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["criterion"] == c)
            .unwrap()
            .clone()
    };
    assert_eq!((&by("subjects")["first"], &by("subjects")["second"]), (&json!(5), &json!(0)));
    assert_eq!((&by("image")["neither"], &by("text")["neither"]), (&json!(5), &json!(0)));
    let metric = &result["metrics"]["dc"];
    assert_eq!(metric["pictures"], 10);
    // six yes, five of them above everything else: at least 5/6 of the pairs are in order
    assert!(metric["auroc"].as_f64().unwrap() >= 5.0 / 6.0, "{metric}");
    assert!(metric["spearman"].as_f64().unwrap() > 0.6, "{metric}");
    assert!(result["metrics"].get("dc_max").is_none());
    let table = String::from_utf8(evaluate(&args).stdout).unwrap();
    assert!(table.contains("oursecret            5 of 5"), "{table}");

    // what does not belong to the study
    let other = saved("other.json", &json!("study-0"), &answers);
    assert!(refusal(&["correlate", &other, "--key", &keyed]).contains("study-0"));
    let odd = saved("odd.json", &key["study"], &json!({"q0": "maybe"}));
    assert!(refusal(&["correlate", &odd, "--key", &keyed]).contains("maybe"));
    let unknown = saved("unknown.json", &key["study"], &json!({"q99": "yes"}));
    assert!(refusal(&["correlate", &unknown, "--key", &keyed]).contains("q99"));
    let stranger = good.replace("oursecret=", "stranger=");
    refusal(&["correlate", &answered, "--key", &keyed, "--scores", &stranger]);
    refusal(&["correlate", &keyed, "--key", &answered]);
}

#[test]
fn a_study_of_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (one, none) = (pictures(&at("one"), 1), pictures(&at("none"), 0));
    let (a, b) = (format!("a={one}"), format!("b={none}"));
    let out = at("out").display().to_string();
    assert!(refusal(&["study", &a, &b, "--out", &out]).contains("same name"));
    assert!(refusal(&["study", &a, &a, "--out", &out]).contains("a twice"));
    assert!(refusal(&["study", &a, "--out", &out, "--count", "0"]).contains("--count"));
    assert!(refusal(&["study", &one, "--out", &out]).contains("METHOD=PATH"));
    fs::write(at("one").join("00000.png"), "no picture").unwrap();
    assert!(refusal(&["study", &a, "--out", &out]).contains("00000.png"));
    assert!(!at("out").exists());
}
