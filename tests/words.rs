//! `decoupling.train_text = "embedding"`: the identifiers' embeddings are learned, kept in the adapter, used by sampling.
#![allow(clippy::unwrap_used)]

use selvedge::{
    models::base::Base,
    plan::{WeightLayout, WeightSource},
    tensor::{
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const DUCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/robot_duck/b");
const STEPS: usize = 8;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(args).env("RAYON_NUM_THREADS", "2");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn fine(args: &[&str]) {
    let output = command(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", text(&output));
}

fn refused(args: &[&str]) -> String {
    let output = command(args).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
    text(&output)
}

/// A configuration with these tokens, one subject each.
fn config(folder: &Path, name: &str, tokens: &[&str]) -> String {
    let mut all = format!(
        "base = \"nano\"\n[method]\nname = \"decoupled\"\n[decoupling]\ntrain_text = \"embedding\"\n\
         text_feature = \"concept\"\n[train]\nresolution = 64\nsteps = {STEPS}\nlearning_rate = 1e-3\n\
         text_learning_rate = 1e-3\nrank = 4\nsample_every = 0\nsave_every = 1\n"
    );
    for token in tokens {
        all += &format!(
            "[[subject]]\nid = \"s{token}\"\ntoken = \"{token}\"\nclass = \"duck\"\nimages = \"{DUCK}\"\n"
        );
    }
    let path: PathBuf = folder.join(name);
    fs::write(&path, all).unwrap();
    path.display().to_string()
}

fn adapter(run: &str) -> SafeFile {
    SafeFile::open(Path::new(run).join("adapter.safetensors")).unwrap()
}

const ROWS: [&str; 2] =
    ["decoupling.identifier.text_encoder", "decoupling.identifier.text_encoder_2"];

#[test]
fn a_killed_and_resumed_run_learns_the_identifier_and_its_file_is_enough() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let config_file = config(f, "one.toml", &["amg"]);
    let path = |name: &str| f.join(name).display().to_string();
    let (whole, broken) = (path("whole"), path("broken"));
    fine(&["train", &config_file, "--out", &whole, "--device", "cpu"]);
    for (kill, rows) in [2, 5].into_iter().enumerate() {
        let mut args = vec!["train", &config_file, "--out", &broken, "--device", "cpu"];
        args.extend((kill > 0).then_some("--resume"));
        let mut child = command(&args).stderr(Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        let log = Path::new(&broken).join("log.csv");
        let done = || fs::read_to_string(&log).unwrap_or_default().lines().count();
        while done() <= rows && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(300), "no progress");
            sleep(Duration::from_millis(2));
        }
        child.kill().unwrap(); // SIGKILL: nothing can be tidied up
        child.wait().unwrap();
        let ended = Path::new(&broken).join("adapter.safetensors").exists();
        assert!(!ended, "the run ended before kill {kill}");
    }
    fine(&["train", &config_file, "--out", &broken, "--device", "cpu", "--resume"]);
    let bytes = |run: &str| fs::read(Path::new(run).join("adapter.safetensors")).unwrap();
    assert!(bytes(&whole) == bytes(&broken), "the adapters differ");

    // what is learned of the text is the word alone
    let file = adapter(&whole);
    assert_eq!(file.metadata()["selvedge.decoupling.words"], "[\"amg\"]");
    assert!(!file.entries().keys().any(|k| k.starts_with("text_encoder")));
    let base = Base::open("nano").unwrap();
    for (name, side) in ROWS.iter().zip(&base.text) {
        let learned = file.raw(name).unwrap().to_tensor().unwrap();
        assert_eq!(learned.dims, [1, side.config.width]);
        let table =
            format!("{}.text_model.embeddings.token_embedding.weight", side.component.name());
        let dims = [side.config.vocabulary, side.config.width];
        let table = base.weights.get(&table, &dims, WeightLayout::Dense).unwrap().unwrap();
        let tokens = side.tokenizer.tokens("amg");
        let start = |k: usize| {
            let of = |t: &i32| table[usize::try_from(*t).unwrap() * dims[1] + k];
            tokens.iter().map(of).sum::<f32>() / tokens.len() as f32
        };
        let moved: Vec<f32> =
            learned.data.iter().enumerate().map(|(k, v)| (v - start(k)).abs()).collect();
        let most = moved.iter().copied().fold(0.0, f32::max);
        assert!(most > 1e-3 && most < 0.02, "{name}: {most} after {STEPS} steps at 1e-3");
    }

    // the same file with another word: pictures of prompts that name it change, others do not
    let mut tensors: BTreeMap<String, Raw> =
        file.entries().keys().map(|k| (k.clone(), file.raw(k).unwrap())).collect();
    for name in ROWS {
        let dims = tensors[name].dims.clone();
        tensors.insert(name.into(), Raw::f32(&dims, &vec![0.5; dims[1]]));
    }
    let other = f.join("other.safetensors");
    let all = tensors.iter().map(|(k, v)| (k.as_str(), v));
    write_safetensors(&other, all, file.metadata()).unwrap();
    let other = other.display().to_string();
    let picture = |lora: &str, prompt: &str, out: &str| {
        let size = ["--height", "64", "--width", "64", "--steps", "2", "--device", "cpu"];
        let to = path(out);
        let args = ["generate", "--base", "nano", "--lora", lora, "--prompt", prompt, "--out", &to];
        fine(&[&args[..], &size].concat());
        selvedge::tensor::image::read(&f.join(out).join("00000.png")).unwrap().data
    };
    assert_ne!(picture(&whole, "a amg duck", "a"), picture(&other, "a amg duck", "b"));
    assert_eq!(picture(&whole, "a duck", "c"), picture(&other, "a duck", "d"));

    // another run goes on from it, with the same words only
    let from = format!("train.from={whole}/adapter.safetensors");
    let still = ["train.learning_rate=0.0", "train.text_learning_rate=0.0", "train.steps=1"];
    let more = path("more");
    let sets = [&from, still[0], still[1], still[2]].map(|s| ["--set", s]).concat();
    fine(&[&["train", &config_file, "--out", &more, "--device", "cpu"][..], &sets].concat());
    for name in ROWS {
        assert_eq!(adapter(&more).raw(name).unwrap(), file.raw(name).unwrap(), "{name}");
    }
    let two = config(f, "two.toml", &["hta"]);
    let e = refused(&["train", &two, "--out", &path("no"), "--set", &from]);
    assert!(e.contains("learned words") && e.contains("amg") && e.contains("hta"), "{e}");
    assert!(!f.join("no").exists());
}

#[test]
fn what_has_no_identifier_cannot_be_learned() {
    let temporary = tempfile::tempdir().unwrap();
    let f = temporary.path();
    let config_file = config(f, "none.toml", &[""]);
    let e = refused(&["train", &config_file, "--out", &f.join("run").display().to_string()]);
    assert!(e.contains("decoupling.train_text") && e.contains("token"), "{e}");
    assert!(!f.join("run").exists());
    let config_file = config(f, "other.toml", &["hta"]);
    let e = refused(&["train", &config_file, "--out", &f.join("run").display().to_string()]);
    assert!(e.contains("`hta`, which no caption names"), "{e}");
    assert!(!f.join("run").exists());
    let config_file = config(f, "dco.toml", &["amg"]);
    let out = f.join("run").display().to_string();
    let e = refused(&["train", &config_file, "--out", &out, "--set", "method.loss=dco"]);
    assert!(e.contains("method.loss"), "{e}");
}
