//! `selvedge evaluate PLAN.toml` through the command, on nano: every piece of work a file, the same bytes by any way.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// Subjects, an embedder and a plan of three rows, two of which show one training.
fn plan(folder: &Path) -> PathBuf {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let subject = |id: &str, token: &str, class: &str| {
        format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"{class}\"\nimages = \"{assets}/{id}\"\n"
        )
    };
    let subjects = [subject("a", "olis", "bear"), subject("b", "hta", "bear")].concat();
    fs::write(folder.join("bears.toml"), subjects).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, from) in
        [("dino", "judging/dinov2"), ("clip", "judging/clip"), ("owl", "detect/model")]
    {
        let own = folder.join(name);
        fs::create_dir(&own).unwrap();
        for file in fs::read_dir(fixtures.join(from)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), own.join(file.file_name())).unwrap();
        }
    }
    let text = r#"
base = "nano"
seeds = [3, 4, 9]
prompts = ["a photo of {subjects}, on the grass", "a photo of {b}"]
[training.train]
resolution = 64
steps = 2
rank = 2
sample_every = 0
[generate]
steps = 2
height = 64
width = 64
[score]
dinov2 = "dino"
clip = "clip"
detector = "owl"
threshold = 0.5
[score.queries]
bears = ["bear"]
[[combination]]
name = "bears"
subjects = "bears.toml"
[[row]]
name = "MuDI"
apart = true
[[row]]
name = "MuDI from noise"
init = "none"
[[row]]
name = "base"
train = false
"#;
    let path = folder.join("plan.toml");
    fs::write(&path, text).unwrap();
    path
}

fn evaluate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["--threads", "2", "evaluate"]).args(args).args(["--device", "cpu"]);
    command.output().unwrap()
}

fn done(plan: &Path, out: &Path, more: &[&str]) -> String {
    let (plan, out) = (plan.display().to_string(), out.display().to_string());
    let run = evaluate(&[&[plan.as_str(), "--out", &out], more].concat());
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

/// Pictures, scores and tables by their path.
fn results(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![out.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(out).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            } else if !name.starts_with("runs") {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

#[test]
fn shards_and_stopped_runs_give_the_bytes_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path());
    let whole = folder.path().join("whole");
    let table = done(&plan, &whole, &[]);
    let want = results(&whole);
    for row in ["MuDI", "MuDI from noise", "base"] {
        assert!(table.contains(&format!("| {row} |")), "{table}");
        for (prompt, seed) in [0, 1].into_iter().flat_map(|p| [3, 4, 9].map(|s| (p, s))) {
            let name = format!("pictures/{row}/bears/{prompt:02}/{seed:04}.png");
            assert!(want.contains_key(&name), "{name} of {:?}", want.keys());
        }
    }
    assert!(want["side_by_side.html"].len() > 20_000);
    // two rows show one training
    assert_eq!(fs::read_dir(whole.join("runs/bears")).unwrap().count(), 2);
    let pixels = |row: &str| &want[&format!("pictures/{row}/bears/00/0003.png")];
    assert!(pixels("MuDI") != pixels("MuDI from noise"), "the initialization did nothing");
    assert!(pixels("base") != pixels("MuDI from noise"), "the adapter did nothing");

    // a row says whether subjects keep apart
    let apart = |row: &str| {
        let asked = &want[&format!("pictures/{row}/bears/00/request.json")];
        serde_json::from_slice::<Value>(asked).unwrap()["apart"] == true
    };
    assert!(apart("MuDI") && !apart("MuDI from noise") && !apart("base"));

    // the second shard first; then pictures and scores are lost
    let parts = folder.path().join("parts");
    assert_eq!(done(&plan, &parts, &["--shard", "2/2"]), "", "no table before all is there");
    assert!(!parts.join("table.md").exists() && !parts.join("pictures/MuDI").exists());
    done(&plan, &parts, &["--shard", "1/2"]);
    let same = |what: &str| {
        let got = results(&parts);
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
        for (name, bytes) in &want {
            assert!(got[name] == *bytes, "{what}: {name} differs");
        }
    };
    same("two shards");
    fs::remove_file(parts.join("pictures/MuDI/bears/00/0004.png")).unwrap();
    fs::remove_file(parts.join("pictures/base/bears/01/0009.png")).unwrap();
    let scores = want.keys().find(|n| n.ends_with("/MuDI/bears/01.json")).unwrap();
    fs::remove_file(parts.join(scores)).unwrap();
    done(&plan, &parts, &[]);
    same("lost files");

    // the table holds the means of the scores
    let all: Value = serde_json::from_slice(&want["table.json"]).unwrap();
    let mean = all[2]["metrics"]["dinov2 whole"]["mean"].as_f64().unwrap();
    for metric in
        ["dinov2 dc", "dinov2 dc_spectral", "clip dc_frobenius", "clip whole", "clip_score"]
    {
        assert_eq!(all[0]["metrics"][metric]["pictures"], 6, "{metric} of {all}");
    }
    let of = |prompt: &str| -> Vec<f64> {
        let name = format!("/base/bears/{prompt}.json");
        let (_, text) = want.iter().find(|(n, _)| n.ends_with(&name)).unwrap();
        let scores: Value = serde_json::from_slice(text).unwrap();
        let images = scores["embedders"]["dinov2"]["images"].as_array().unwrap().clone();
        images.iter().map(|i| i["whole"].as_f64().unwrap()).collect()
    };
    let values = [of("00"), of("01")].concat();
    assert_eq!(values.len(), 6);
    assert!((values.iter().sum::<f64>() / 6.0 - mean).abs() < 1e-12);
}

#[test]
fn plans_that_cannot_be_done_are_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = plan(folder.path());
    let text = fs::read_to_string(&path).unwrap();
    let refused = |from: &str, to: &str, word: &str| {
        assert!(text.contains(from), "{from}");
        let other = folder.path().join("other.toml");
        fs::write(&other, text.replacen(from, to, 1)).unwrap();
        let out = folder.path().join("none").display().to_string();
        let run = evaluate(&[&other.display().to_string(), "--out", &out]);
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{error}");
        assert!(error.contains(word) && !error.contains("panicked"), "{word}: {error}");
        assert!(!Path::new(&out).exists(), "{to}");
    };
    refused("seeds =", "sedes =", "sedes");
    refused("[3, 4, 9]", "[3, 4, 3]", "seeds");
    refused("[3, 4, 9]", "0", "seeds");
    refused("{b}", "{c}", "{c}");
    refused("\"MuDI from noise\"", "\"MuDI\"", "twice");
    refused("\"MuDI from noise\"", "\"../x\"", "../x");
    refused("\"bears.toml\"", "\"none.toml\"", "none.toml");
    refused("train = false", "train = false\nset = [\"train.steps=3\"]", "train = false");
    refused("train = false", "set = [\"train.stepps=3\"]", "stepps");
    refused("dinov2 = \"dino\"", "dinov2 = \"nowhere\"", "nowhere");
    refused("dinov2 = \"dino\"", "dreamsin = \"dino\"", "dreamsin");
    refused("dinov2 = \"dino\"\nclip = \"clip\"\n", "", "nothing that judges");
    refused("bears = [", "cats = [", "cats");
    refused("detector = \"owl\"", "", "without a detector");
    refused("threshold", "padding = \"blue\"\nthreshold", "score.padding");
    refused("threshold = 0.5", "threshold = 5", "score.threshold");
    refused("threshold = 0.5", "nms = -1.0", "score.nms");
    refused("detector = \"owl\"\nthreshold = 0.5", "nms = 0.8", "without a detector");
    refused("init = \"none\"", "init = \"none\"\napart = true", "row MuDI from noise: apart");
    refused("train = false", "train = false\napart = true", "row base: apart");
    refused("rank = 2", "rnak = 2", "rnak");
    refused("[training.train]", "[training]\nbase = \"x\"\n[training.train]", "training");

    // a plan may grow, and may be judged otherwise; what was made may not change
    let out = folder.path().join("out");
    let small = text.replace("[3, 4, 9]", "1").replace("on the grass\", \"a photo of {b}", "here");
    let small = small.replace(
        "[[row]]\nname = \"MuDI\"\napart = true\n[[row]]\nname = \"MuDI from noise\"",
        "[[row]]\nname = \"x\"\ntrain = false",
    );
    let small = small.replace("init = \"none\"\n", "");
    fs::write(&path, &small).unwrap();
    done(&path, &out, &[]);
    let first = results(&out);
    fs::write(&path, small.replace("seeds = 1", "seeds = 2")).unwrap();
    done(&path, &out, &[]);
    let more = results(&out);
    let all: Value = serde_json::from_slice(&more["table.json"]).unwrap();
    assert_eq!(all[0]["metrics"]["dinov2 whole"]["pictures"], 2);
    let pictures =
        |all: &BTreeMap<String, Vec<u8>>| all.keys().filter(|n| n.ends_with(".png")).count();
    assert_eq!((pictures(&first), pictures(&more)), (2, 4));
    assert!(first.iter().filter(|(n, _)| n.ends_with(".png")).all(|(n, b)| more[n] == *b));
    fs::write(&path, small.replace("steps = 2\nheight", "steps = 3\nheight")).unwrap();
    let run = evaluate(&[&path.display().to_string(), "--out", &out.display().to_string()]);
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(2) && error.contains("another request"), "{error}");
    for shard in ["0/2", "3/2", "x", "1/0"] {
        let args = [path.display().to_string(), "--out".into(), "x".into(), "--shard".into()];
        let args: Vec<&str> = args.iter().map(String::as_str).chain([shard]).collect();
        assert_eq!(evaluate(&args).status.code(), Some(2), "{shard}");
    }
    assert_eq!(evaluate(&[]).status.code(), Some(2));
}
