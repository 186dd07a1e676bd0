//! Whole training runs of every kind through the command, on nano: what must not change, and what is written.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::device::cpu::{ISA_VARIABLE, Isa};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A six-step configuration; further keys come by `--set`.
fn config(folder: &Path) -> PathBuf {
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/src/assets/nano/subjects/bears");
    let subject = |id: &str, class: &str| {
        format!("[[subject]]\nid = \"{id}\"\nclass = \"{class}\"\nimages = \"{assets}/{id}\"\n")
    };
    let text = format!(
        "base = \"nano\"\n[train]\nresolution = 64\nsteps = 6\naccumulate = 1\nrank = 2\n\
         learning_rate = 1e-3\nsample_every = 0\nsample_steps = 2\n{}{}",
        subject("a", "dotted bear"),
        subject("b", "striped bear")
    );
    let path = folder.join("train.toml");
    fs::write(&path, text).unwrap();
    path
}

fn train(folder: &Path, name: &str, sets: &[&str]) -> (PathBuf, Output) {
    train_with(folder, name, sets, "", 2)
}

/// As [`train`] with an instruction set (the widest when empty) and a number of threads.
fn train_with(
    folder: &Path,
    name: &str,
    sets: &[&str],
    isa: &str,
    threads: usize,
) -> (PathBuf, Output) {
    let out = folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    if !isa.is_empty() {
        command.env(ISA_VARIABLE, isa);
    }
    command.arg("--threads").arg(threads.to_string());
    command.arg("train").arg(config(folder)).arg("--out").arg(&out);
    command.args(sets.iter().flat_map(|s| ["--set", s]));
    let output = command.output().unwrap();
    (out, output)
}

/// The run folder of a run that must succeed.
fn done(folder: &Path, name: &str, sets: &[&str]) -> PathBuf {
    let (out, output) = train(folder, name, sets);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    out
}

fn adapter(out: &Path) -> Vec<u8> {
    fs::read(out.join("adapter.safetensors")).unwrap()
}

/// The JSON header of a tensor file.
fn names(file: &Path) -> String {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    String::from_utf8(bytes[8..8 + usize::try_from(length).unwrap()].to_vec()).unwrap()
}

#[test]
fn caching_and_recomputing_change_no_bit_and_other_settings_do() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let plain = adapter(&done(f, "plain", &[]));
    let uncached = done(f, "uncached", &["train.cache_latents=false"]);
    assert!(adapter(&uncached) == plain, "cached latents differ");
    let again = done(f, "again", &["train.checkpoint_gradients=true"]);
    assert!(adapter(&again) == plain, "recomputed activations differ");
    assert!(adapter(&done(f, "seed", &["train.seed=43"])) != plain);
    assert!(adapter(&done(f, "snr", &["method.min_snr_gamma=5.0"])) != plain);
    assert!(
        adapter(&done(f, "cut", &["method.name=cut-mix", "method.mix_probability=1.0"])) != plain
    );
}

/// The losses of a run, one a step.
fn losses(out: &Path) -> Vec<f32> {
    let log = fs::read_to_string(out.join("log.csv")).unwrap();
    log.lines().skip(1).map(|l| l.split(',').nth(1).unwrap().parse().unwrap()).collect()
}

#[test]
fn every_instruction_set_trains_the_same_and_threads_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, isa: &str, threads| {
        let (out, output) = train_with(folder.path(), name, &["train.steps=3"], isa, threads);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        out
    };
    let widest = run("widest", "", 2);
    assert!(adapter(&run("alone", "", 1)) == adapter(&widest), "one thread gives other bits");
    let first = losses(&widest);
    assert_eq!(first.len(), 3);
    for isa in Isa::available() {
        let own = losses(&run(isa.name(), isa.name(), 2));
        let near = own.iter().zip(&first).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs());
        assert!(near && own.len() == 3, "{isa:?}: {own:?}, the widest: {first:?}");
    }
    for (isa, threads) in [("mmx", 2), ("", 0)] {
        let (out, output) = train_with(folder.path(), "wrong", &[], isa, threads);
        assert_eq!(output.status.code(), Some(2), "{isa} {threads}");
        assert!(!out.exists());
    }
}

#[test]
fn dco_starts_at_ln_2_and_refuses_prior_pictures() {
    let folder = tempfile::tempdir().unwrap();
    for isa in Isa::available() {
        let sets = ["method.loss=dco", "train.steps=1"];
        let (out, output) = train_with(folder.path(), isa.name(), &sets, isa.name(), 2);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let first = losses(&out)[0];
        assert!((first - std::f32::consts::LN_2).abs() < 1e-6, "{isa:?}: {first}");
    }
    let both = ["method.loss=dco", "method.prior_preservation=true"];
    let (out, output) = train(folder.path(), "both", &both);
    assert_eq!(output.status.code(), Some(2));
    assert!(!out.exists(), "a refused run leaves a folder");
}

#[test]
fn text_encoders_and_whole_weights_can_be_trained() {
    let folder = tempfile::tempdir().unwrap();
    let out = done(folder.path(), "text", &["train.train_text_encoder=true", "train.steps=2"]);
    let header = names(&out.join("adapter.safetensors"));
    assert!(header.contains("\"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A"));
    assert!(header.contains("\"text_encoder_2.") && header.contains("\"unet."));
    let full = ["train.mode=full", "train.parts=[\"unet.mid_block\"]", "train.steps=2"];
    let out = done(folder.path(), "full", &full);
    let header = names(&out.join("weights.safetensors"));
    assert!(header.contains("\"unet.mid_block.resnets.0.conv1.weight\""), "{header}");
    assert!(!header.contains("down_blocks"));
    let (_, output) = train(folder.path(), "none", &["train.targets=[\"to_z\"]"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join("none").exists(), "a refused run leaves a folder");
}

#[test]
fn a_prior_set_is_made_once_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [
        "method.prior_preservation=true",
        "method.prior_images=2",
        "train.steps=2",
        "train.sample_every=2",
        "train.formats=[\"peft\",\"kohya\",\"comfy\"]",
    ];
    let out = done(folder.path(), "prior", &sets);
    let pictures = |class: &str| fs::read_dir(out.join("prior").join(class)).unwrap().count();
    assert!(pictures("dotted_bear") >= 2 && pictures("striped_bear") >= 2);
    assert!(out.join("samples/step-000002/00.png").exists());
    let kohya = names(&out.join("adapter_kohya.safetensors"));
    assert!(kohya.contains("lora_unet_input_blocks_") && kohya.contains(".alpha"), "{kohya}");
    let comfy = names(&out.join("adapter_comfy.safetensors"));
    assert!(comfy.contains("lora_unet_down_blocks_"));
    let events = fs::read_dir(out.join("events")).unwrap().next().unwrap().unwrap();
    assert!(fs::read(events.path()).unwrap().windows(9).any(|w| w == b"grad_norm"));
    let resolved = fs::read_to_string(out.join("config.toml")).unwrap();
    assert!(resolved.contains("prior_images = 2") && resolved.contains("clip_norm"));
}
