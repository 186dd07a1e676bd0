//! A run that is killed anywhere and resumed ends in the same bits as one that was never stopped.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const STEPS: usize = 24;

/// A short Seg-Mix run on nano with everything that has state: accumulation, warm-up, average, checkpoints.
fn config(folder: &Path) -> PathBuf {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let text = format!(
        r#"base = "nano"
[method]
mix_probability = 0.5
soft_alpha = 0.5
[train]
resolution = 64
steps = {STEPS}
batch = 1
accumulate = 2
learning_rate = 1e-3
schedule = "cosine"
warmup_steps = 3
rank = 2
ema = true
save_every = 4
sample_every = 0
[[subject]]
id = "a"
token = "olis"
class = "bear"
images = "{assets}/a"
[[subject]]
id = "b"
token = "hta"
class = "bear"
images = "{assets}/b"
"#
    );
    let path = folder.join("train.toml");
    fs::write(&path, text).unwrap();
    path
}

fn command(config: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("train").arg(config).arg("--out").arg(out).args(more);
    command.env("RAYON_NUM_THREADS", "2").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command) -> Output {
    command.output().unwrap()
}

/// What a run that has to succeed says.
fn succeeds(command: Command) -> String {
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn rows(out: &Path) -> Vec<String> {
    let text = fs::read_to_string(out.join("log.csv")).unwrap_or_default();
    text.lines().skip(1).map(str::to_string).collect()
}

/// Waits until the log has `count` rows, then a little longer, so that the kill falls somewhere in a step.
fn wait_for(child: &mut Child, out: &Path, count: usize, extra_ms: u64) {
    let begin = Instant::now();
    while rows(out).len() < count && child.try_wait().unwrap().is_none() {
        assert!(begin.elapsed() < Duration::from_secs(300), "no progress");
        sleep(Duration::from_millis(5));
    }
    sleep(Duration::from_millis(extra_ms));
}

/// Everything but the seconds.
fn facts(out: &Path) -> Vec<Vec<String>> {
    let facts = |row: &String| -> Vec<String> {
        let all: Vec<&str> = row.split(',').collect();
        all.iter().enumerate().filter(|(i, _)| *i != 4).map(|(_, cell)| cell.to_string()).collect()
    };
    rows(out).iter().map(facts).collect()
}

/// Runs once as a whole and once killed after each of `kills` (rows of the log, then milliseconds), with `more`
/// arguments; both end in the same bits. The folder of both, and what the last resumption said.
fn the_same_after(kills: &[(usize, u64)], more: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    succeeds(command(&config, &whole, more));
    let resumed = [more, &["--resume"]].concat();
    for (kill, (row, extra_ms)) in kills.iter().enumerate() {
        let more = if kill == 0 { more } else { &resumed };
        let mut child = command(&config, &broken, more).spawn().unwrap();
        wait_for(&mut child, &broken, *row, *extra_ms);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!broken.join("adapter.safetensors").exists(), "the run ended before kill {kill}");
    }
    let said = succeeds(command(&config, &broken, &resumed));
    let adapter = |out: &Path| fs::read(out.join("adapter.safetensors")).unwrap();
    assert!(adapter(&whole) == adapter(&broken), "the adapters differ");
    assert_eq!(facts(&whole), facts(&broken));
    assert_eq!(last_manifest(&whole), last_manifest(&broken));
    (folder, said)
}

/// What the last checkpoint says of itself: the sums of its bytes and where the scale of the loss stands.
fn last_manifest(out: &Path) -> String {
    let all = fs::read_dir(out.join("checkpoints")).unwrap();
    let last = all.map(|entry| entry.unwrap().path()).max().unwrap();
    fs::read_to_string(last.join("manifest.json")).unwrap()
}

#[test]
fn killed_and_resumed_runs_end_in_the_same_bits() {
    let (folder, _) = the_same_after(&[(2, 3), (9, 40), (13, 17), (16, 1)], &[]);
    let whole = folder.path().join("whole");
    assert_eq!(facts(&whole).len(), STEPS);
    assert!(facts(&whole).iter().any(|row| row[4] != "0"), "no mix was drawn");
    let kept = fs::read_dir(folder.path().join("broken/checkpoints")).unwrap().count();
    assert_eq!(kept, 2, "the last checkpoints are kept and no unfinished one stays");
    let refused = finish(command(&folder.path().join("train.toml"), &whole, &[]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--resume"));
}

/// In f16 the scale of the loss is part of the state: how many good updates there were since it last changed.
#[test]
fn killed_and_resumed_runs_in_f16_end_with_the_same_scale() {
    let f16 = ["--device", "cpu", "--dtype", "f16"];
    let (folder, said) = the_same_after(&[(6, 3), (13, 17)], &f16);
    let whole = folder.path().join("whole");
    assert!(!said.contains("skipped"), "{said}");
    let manifest = last_manifest(&whole);
    let scale = format!("{{\"value\":65536.0,\"good\":{STEPS},\"skipped\":0,\"in_a_row\":0}}");
    assert!(manifest.contains(&scale), "{manifest:.300}");
    let text = fs::read_to_string(whole.join("log.csv")).unwrap();
    let head = "step,loss,learning_rate,grad_norm,seconds,mixed,loss_scale,skipped\n";
    assert!(text.starts_with(head), "{text:.200}");
    assert!(facts(&whole).iter().all(|row| row[5..] == ["65536", "0"]));
}

/// On a device that stores gradients in f16, where DCO's loss of small pictures is so steep that updates are skipped.
#[cfg(feature = "emulate")]
#[test]
fn killed_and_resumed_runs_in_f16_on_a_device_skip_the_same_updates() {
    let mut more = vec!["--device", "emulated", "--dtype", "f16"];
    let set =
        ["train.resolution=32", "train.accumulate=1", "train.steps=6", "train.warmup_steps=0"];
    set.iter().for_each(|word| more.extend(["--set", word]));
    // the row of a step is written while the next one runs
    let (folder, said) = the_same_after(&[(4, 3)], &more);
    let whole = folder.path().join("whole");
    let skipped = facts(&whole).iter().filter(|row| row[6] == "1").count();
    assert!((2..6).contains(&skipped), "{:?}", facts(&whole));
    // those before the kill included
    assert!(said.contains(&format!("{skipped} updates skipped, loss scale ")), "{said}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_finishes_the_step_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let out = folder.path().join("run");
    let mut child = command(&config, &out, &[]).spawn().unwrap();
    wait_for(&mut child, &out, 2, 0);
    // to the process and, right behind it, to its group, as `timeout` does: one press
    let id = child.id().to_string();
    for _ in 0..2 {
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("interrupted") && text.contains("--resume"), "{text}");
    let done = rows(&out).len();
    let saved = out.join(format!("checkpoints/step-{done:08}/manifest.json"));
    assert!(saved.exists(), "{done} steps, {}", saved.display());
    let other = finish(command(&config, &out, &["--resume", "--set", "train.rank=3"]));
    assert_eq!(other.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&other.stderr).contains("config.toml"));
}

#[test]
fn a_damaged_checkpoint_is_named_passed_over_and_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (config(folder.path()), folder.path().join("run"));
    let short = ["--set", "train.steps=8"];
    succeeds(command(&config, &out, &short));
    let bytes = |name: &str| fs::read(out.join(name)).unwrap();
    let last = "checkpoints/step-00000008/state.bin";
    let (adapter, whole) = (bytes("adapter.safetensors"), bytes(last));
    fs::write(out.join(last), &whole[1..]).unwrap();
    let said = succeeds(command(&config, &out, &[&short[..], &["--resume"]].concat()));
    let told = said.contains("warning: passed over a damaged checkpoint") && said.contains(last);
    assert!(told, "{said}");
    assert!(bytes("adapter.safetensors") == adapter && bytes(last) == whole);
}
