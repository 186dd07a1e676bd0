//! `selvedge evaluate dreambench` through the command, on nano: the published protocol on two small subjects.
#![allow(clippy::unwrap_used)]

use selvedge::{
    models::{checkpoint::Component, towers::Preparation},
    tensor::{
        image::{read, read_text},
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const LIST: &str = "Classes\n\nsubject_name,class\ncat2,cat\nrobot_toy,toy\nvase,vase\n\nPrompts\n\n\
    Object Prompts\n\nprompt_list = [\n'a {0} {1} on a boat'.format(unique_token, class_token),\n\
    'a blue {0} {1}'.format(unique_token, class_token)\n]\n\nLive Subject Prompts\n\nprompt_list = [\n\
    'a {0} {1} in a green hat'.format(unique_token, class_token),\n\
    'a wet {0} {1}'.format(unique_token, class_token)\n]\n";

fn fixtures() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// A dataset of two subjects with two photos each, of three that its list names.
fn dataset(folder: &Path) -> PathBuf {
    let photos = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/assets/nano/subjects/bears");
    let data = folder.join("data");
    for (name, from) in [("cat2", "a"), ("robot_toy", "b")] {
        let own = data.join("dataset").join(name);
        fs::create_dir_all(&own).unwrap();
        for photo in ["01.png", "02.png"] {
            fs::copy(photos.join(from).join(photo), own.join(photo)).unwrap();
        }
    }
    fs::write(data.join("dataset/prompts_and_classes.txt"), LIST).unwrap();
    data
}

fn selvedge(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["--threads", "2"]).args(args).args(["--device", "cpu"]);
    command.output().unwrap()
}

fn done(args: &[&str]) -> (String, String) {
    let run = selvedge(args);
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "{error}");
    (String::from_utf8(run.stdout).unwrap(), error)
}

/// The command on `data` into `out`, on nano and small.
fn bench(data: &Path, out: &Path, more: &[&str]) -> (String, String) {
    let (data, out) = (text(data), text(out));
    let own = ["evaluate", "dreambench", "--data", &data, "--base", "nano", "--out", &out];
    let small = ["--steps", "2", "--height", "64", "--width", "64"];
    done(&[&own[..], &small, more].concat())
}

/// Everything but the runs, by path.
fn results(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut all, mut open) = (BTreeMap::new(), vec![out.to_path_buf()]);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = text(path.strip_prefix(out).unwrap());
            if path.is_dir() {
                open.push(path);
            } else if !name.starts_with("runs") {
                all.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn scores(all: &BTreeMap<String, Vec<u8>>, of: &str) -> Value {
    let (_, text) = all.iter().find(|(n, _)| n.ends_with(&format!("/{of}.json"))).unwrap();
    serde_json::from_slice(text).unwrap()
}

fn near(got: &Value, want: f64, what: &str) {
    let got = got.as_f64().unwrap_or(f64::NAN);
    assert!((got - want).abs() < 2e-6, "{what}: {got} {want}");
}

#[test]
fn the_protocol_is_done_by_any_way_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path());
    let dino = text(&fixtures().join("parity/tower-dino-original/model.safetensors"));
    let clip = text(&fixtures().join("judging/clip"));
    let flags = ["--method", "dreambooth", "--method", "base", "--pictures", "2", "--seed", "5"];
    let training = ["resolution=64", "steps=2", "rank=2", "sample_every=0"];
    let training: Vec<String> = training.iter().map(|t| format!("train.{t}")).collect();
    let training: Vec<&str> = training.iter().flat_map(|t| ["--set", t]).collect();
    let judges = ["--dino", &dino, "--clip", &clip];
    let flags = [&flags[..], &training, &judges].concat();
    let whole = folder.path().join("whole");
    let (table, told) = bench(&data, &whole, &flags);
    assert!(told.contains("from prompts_and_classes.txt"), "{told}");
    assert!(told.contains("no folder for vase"), "{told}");
    let want = results(&whole);
    for method in ["dreambooth", "base"] {
        assert!(table.contains(&format!("| {method} |")), "{table}");
        for (subject, prompt) in [("cat2", 0), ("cat2", 1), ("robot_toy", 0), ("robot_toy", 1)] {
            for seed in [5, 6] {
                let name = format!("pictures/{method}/{subject}/{prompt:02}/{seed:04}.png");
                assert!(want.contains_key(&name), "{name} of {:?}", want.keys());
            }
        }
    }
    assert_eq!(want.keys().filter(|n| n.ends_with(".png")).count(), 16);
    assert!(want["side_by_side/cat2.html"].len() > 10_000);
    let pixels = |method: &str| &want[&format!("pictures/{method}/cat2/00/0005.png")];
    assert!(pixels("base") != pixels("dreambooth"), "the adapter did nothing");
    words(&whole, &want);
    numbers(&whole, &want);
    by_hand(folder.path(), &data, &whole, &want);

    // the second shard first; then a picture and scores are lost
    let parts = folder.path().join("parts");
    let shard = |word: &'static str| [&flags[..], &["--shard", word]].concat();
    assert_eq!(bench(&data, &parts, &shard("2/2")).0, "", "no table before all is there");
    assert!(!parts.join("table.md").exists() && !parts.join("pictures/dreambooth").exists());
    bench(&data, &parts, &shard("1/2"));
    let same = |what: &str| {
        let got = results(&parts);
        assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
        for (name, bytes) in &want {
            assert!(got[name] == *bytes, "{what}: {name} differs");
        }
    };
    same("two shards");
    fs::remove_file(parts.join("pictures/dreambooth/cat2/01/0006.png")).unwrap();
    let lost = want.keys().find(|n| n.ends_with("/base/robot_toy/00.json")).unwrap();
    fs::remove_file(parts.join(lost)).unwrap();
    bench(&data, &parts, &flags);
    same("lost files");
}

/// What the pictures were made with and what they are compared with.
fn words(out: &Path, all: &BTreeMap<String, Vec<u8>>) {
    let path = out.join("pictures/dreambooth/cat2/00/0005.png");
    let (_, made) = read_text(&path).unwrap().into_iter().find(|(k, _)| k == "selvedge").unwrap();
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!((&made["prompt"], &made["seed"]), (&json!("a sks cat in a green hat"), &json!(5)));
    for (of, prompt, plain) in [
        ("cat2/00", "a sks cat in a green hat", "a cat in a green hat"),
        ("cat2/01", "a wet sks cat", "a wet cat"),
        ("robot_toy/00", "a sks toy on a boat", "a toy on a boat"),
    ] {
        let scores = scores(all, &format!("base/{of}"));
        assert_eq!((&scores["prompt"], &scores["text"]), (&json!(prompt), &json!(plain)));
    }
}

/// The table holds the means over (subject, prompt) of the scores.
fn numbers(out: &Path, all: &BTreeMap<String, Vec<u8>>) {
    let table: Value = serde_json::from_slice(&fs::read(out.join("table.json")).unwrap()).unwrap();
    assert_eq!(table["missing_subjects"], json!(["vase"]));
    assert_eq!(table["not_measured"], json!({}));
    let of = |name: &str, metric: &str| {
        let scores = scores(all, &format!("base/{name}"));
        if metric == "diversity" {
            return scores["diversity"].as_f64().unwrap();
        }
        let shots = scores["pictures"].as_array().unwrap();
        shots.iter().map(|s| s[metric].as_f64().unwrap()).sum::<f64>() / shots.len() as f64
    };
    let base = &table["methods"][1];
    for metric in ["dino", "clip_i", "clip_t", "diversity"] {
        let cat = (of("cat2/00", metric) + of("cat2/01", metric)) / 2.0;
        let toy = (of("robot_toy/00", metric) + of("robot_toy/01", metric)) / 2.0;
        near(&base["all"][metric]["mean"], (cat + toy) / 2.0, metric);
        near(&base["live"][metric]["mean"], cat, metric);
        near(&base["objects"][metric]["mean"], toy, metric);
        near(&base["subjects"]["robot_toy"][metric]["mean"], toy, metric);
        let items = ["all", "live"].map(|group| base[group][metric]["items"].clone());
        assert_eq!(items, [json!(4), json!(2)], "{metric}");
        let [low, high] = [0, 1].map(|i| base["all"][metric]["interval"][i].as_f64().unwrap());
        assert!(low < (cat + toy) / 2.0 && (cat + toy) / 2.0 < high, "{metric}: {low} {high}");
    }
}

/// Class tokens from `forward dino` and the cosines from here; CLIP's numbers from `score`.
fn by_hand(folder: &Path, data: &Path, out: &Path, all: &BTreeMap<String, Vec<u8>>) {
    let shown = out.join("pictures/dreambooth/cat2/00");
    let photos = data.join("dataset/cat2");
    let files = [
        shown.join("0005.png"),
        shown.join("0006.png"),
        photos.join("01.png"),
        photos.join("02.png"),
    ];
    let model = fixtures().join("parity/tower-dino-original/model.safetensors");
    let preparation = Preparation::of(Component::Dino, &model, [224; 2]).unwrap();
    let mut pixels = vec![];
    for file in &files {
        let frame = preparation.frame(&read(file).unwrap().rgb()).unwrap();
        let samples = preparation.samples(&frame);
        assert_eq!(samples.len(), 224 * 224 * 3);
        (0..3).for_each(|c| pixels.extend(samples.iter().skip(c).step_by(3)));
    }
    let [inputs, outputs] = ["in", "out"].map(|n| folder.join(format!("{n}.safetensors")));
    let raw = Raw::f32(&[4, 3, 224, 224], &pixels);
    write_safetensors(&inputs, [("pixel_values", &raw)], &BTreeMap::new()).unwrap();
    let paths = [&model, &inputs, &outputs].map(|p| text(p));
    let [model, inputs, outputs] = &paths;
    done(&["forward", "dino", "--model", model, "--inputs", inputs, "--outputs", outputs]);
    let tokens = SafeFile::open(Path::new(outputs)).unwrap().f32("last_hidden_state").unwrap();
    let class = |i: usize| &tokens.data[i * tokens.dims[1] * tokens.dims[2]..][..tokens.dims[2]];
    let cosine = |i: usize, j: usize| {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (a, b) = (class(i), class(j));
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let scores = scores(all, "dreambooth/cat2/00");
    for i in 0..2 {
        let want = (cosine(i, 2) + cosine(i, 3)) / 2.0;
        near(&scores["pictures"][i]["dino"], want, "dino");
    }
    near(&scores["diversity"], 1.0 - cosine(0, 1), "diversity");

    let subjects = folder.join("subjects.toml");
    let subject = "[[subject]]\nid = \"cat2\"\ntoken = \"sks\"\nclass = \"cat\"\n";
    fs::write(&subjects, format!("{subject}images = {:?}\n", text(&photos))).unwrap();
    let paths = [&shown, &subjects, &fixtures().join("judging/clip")].map(|p| text(p));
    let [shown, subjects, clip] = &paths;
    let args = ["score", "--images", shown, "--subjects", subjects, "--clip", clip, "--json"];
    let want: Value = serde_json::from_str(&done(&args).0).unwrap();
    for i in 0..2 {
        let (got, want) = (&scores["pictures"][i], &want["images"][i]);
        near(&got["clip_i"], want["similarity_clip"].as_f64().unwrap(), "clip_i");
        near(&got["clip_t"], want["clip_score"].as_f64().unwrap(), "clip_t");
    }
}

#[test]
fn without_the_file_the_list_is_built_in_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = dataset(folder.path());
    fs::remove_file(data.join("dataset/prompts_and_classes.txt")).unwrap();
    fs::create_dir(data.join("dataset/.hidden")).unwrap();
    // the subjects right in the folder; of the one unit nothing is this shard's
    let data = data.join("dataset");
    let out = folder.path().join("out");
    let flags = ["--method", "base", "--subject", "cat2", "--shard", "2/2"];
    let (_, told) = bench(&data, &out, &flags);
    assert!(told.contains("subjects: 1; classes and prompts from the list built in"), "{told}");
    assert!(told.contains("no folder for backpack, backpack_dog, bear_plushie"), "{told}");
    assert!(told.contains("25 prompts of rows are still to be made"), "{told}");
    for metric in ["DINO", "diversity", "CLIP-I", "CLIP-T"] {
        assert!(told.contains(&format!("{metric} is not measured: no --")), "{told}");
    }
    let plan: Value =
        serde_json::from_slice(&fs::read(out.join("dreambench.json")).unwrap()).unwrap();
    assert_eq!(plan["missing_subjects"].as_array().unwrap().len(), 28);
    assert_eq!(plan["subjects_left_out"], json!(["robot_toy"]));
    let cat = &plan["subjects"][0];
    assert_eq!(
        (&cat["class"], &cat["live"], &cat["photos"]),
        (&json!("cat"), &json!(true), &json!(2))
    );
    assert_eq!(cat["prompts"].as_array().unwrap().len(), 25);
    assert_eq!(cat["prompts"][0]["prompt"], "a sks cat in the jungle");
    assert_eq!(cat["prompts"][0]["text"], "a cat in the jungle");
}

#[test]
fn what_cannot_be_done_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("none");
    let refused = |data: &Path, more: &[&str], word: &str| {
        let (data, to) = (text(data), text(&out));
        let own = ["evaluate", "dreambench", "--data", &data, "--out", &to];
        let base = if more.contains(&"--base") { &[][..] } else { &["--base", "nano"][..] };
        let run = selvedge(&[&own[..], base, more].concat());
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{more:?}: {error}");
        assert!(error.contains(word) && !error.contains("panicked"), "{word}: {error}");
        assert!(!out.exists(), "{more:?}");
        error.lines().count()
    };
    let good = dataset(folder.path());
    let (dino, clip) = (fixtures().join("parity/tower-dino-original/model.safetensors"), "--clip");
    let dino = text(&dino);
    for (more, word) in [
        (&["--method", "dreambooht"][..], "dreambooht"),
        (&["--method", "mudi"], "one subject at a time"),
        (&["--method", "base", "--method", "base"], "twice"),
        (&["--subject", "nobody"], "cat2, robot_toy"),
        (&["--set", "base=x"], "--set"),
        (&["--set", "method.name=mudi"], "--method"),
        (&["--set", "train.stepps=3"], "stepps"),
        (&["--set", "train.resolution=60"], "resolution"),
        (&["--height", "63"], "63"),
        (&["--steps", "0"], "--steps"),
        (&["--guidance", "-1"], "--guidance"),
        (&["--sampler", "x"], "dpm++"),
        (&["--set", "prediction=v"], "--prediction"),
        (&["--prediction", "x"], "epsilon"),
        (&["--token", " "], "--token"),
        (&["--base", "nowhere"], "nowhere"),
        (&["--dino", "nowhere"], "nowhere"),
        (&[clip, &dino], "model.safetensors"),
    ] {
        assert_eq!(refused(&good, more, word), 1, "{more:?}");
    }
    // by clap, with its own lines
    for more in [["--shard", "3/2"], ["--shard", "x"], ["--pictures", "0"], ["--seed", "x"]] {
        refused(&good, &more, more[0]);
    }
    assert_eq!(refused(&folder.path().join("nowhere"), &[], "nowhere"), 1);
    let broken = |change: &dyn Fn(&Path), word: &str| {
        let other = tempfile::tempdir().unwrap();
        let data = dataset(other.path());
        change(&data.join("dataset"));
        assert_eq!(refused(&data, &[], word), 1, "{word}");
    };
    broken(
        &|d| {
            fs::remove_dir_all(d.join("cat2")).and(fs::remove_dir_all(d.join("robot_toy"))).unwrap()
        },
        "no folder",
    );
    broken(
        &|d| {
            ["01.png", "02.png"]
                .iter()
                .for_each(|f| fs::remove_file(d.join("cat2").join(f)).unwrap())
        },
        "no pictures",
    );
    broken(&|d| fs::write(d.join("robot_toy/02.png"), "no picture").unwrap(), "02.png");
    broken(
        &|d| fs::write(d.join("prompts_and_classes.txt"), &LIST[..300]).unwrap(),
        "prompts_and_classes.txt",
    );
    broken(&|d| fs::create_dir(d.join("hamster")).unwrap(), "hamster");
}
