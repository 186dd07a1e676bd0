//! Whole training runs of every kind through the command, on nano: what must not change, and what is written.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use selvedge::{
    device::cpu::{ISA_VARIABLE, Isa},
    models::{
        base::Base,
        checkpoint::{Checkpoint, Component},
    },
};
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
    let mse = adapter(&done(f, "mse", &["method.loss=mse"]));
    let snr = ["method.loss=mse", "method.min_snr_gamma=5.0"];
    assert!(mse != plain && adapter(&done(f, "snr", &snr)) != mse);
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
    let both = ["method.prior_preservation=true"];
    let (out, output) = train(folder.path(), "both", &both);
    assert_eq!(output.status.code(), Some(2));
    assert!(!out.exists(), "a refused run leaves a folder");
}

#[test]
fn text_encoders_can_be_trained_and_patterns_without_a_layer_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = done(
        folder.path(),
        "text",
        &["method.loss=mse", "train.train_text_encoder=true", "train.steps=2"],
    );
    let header = names(&out.join("adapter.safetensors"));
    assert!(header.contains("\"text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A"));
    assert!(header.contains("\"text_encoder_2.") && header.contains("\"unet."));
    let (_, output) = train(folder.path(), "none", &["train.targets=[\"to_z\"]"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!folder.path().join("none").exists(), "a refused run leaves a folder");
    let (_, output) = train(folder.path(), "one", &["train.targets=[\"to_q\",\"to_z\"]"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("[\"to_z\"]"), "{error}");
}

fn run(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn full_training_ends_in_a_model_that_generate_takes_as_its_base() {
    let folder = tempfile::tempdir().unwrap();
    let parts = "train.parts=[\"unet.mid_block\",\"text_encoder.text_model.encoder\"]";
    let sets =
        ["method.loss=mse", "train.mode=full", parts, "train.steps=2", "train.sample_every=1"];
    let (out, output) = train(folder.path(), "full", &sets);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.trim_end().ends_with("full/model") && !told.contains("adapter"), "{told}");
    let model = out.join("model");
    let tensors = |model: &str, part| {
        let part = Checkpoint::open(model, part).unwrap();
        let names: Vec<String> = part.shapes().map(|(n, _)| n.to_string()).collect();
        names.into_iter().map(|n| (n.clone(), part.tensor(&n).unwrap())).collect::<Vec<_>>()
    };
    for (part, trained) in [
        (Component::Unet, "mid_block."),
        (Component::TextEncoder, "text_model.encoder.layers."),
        (Component::TextEncoder2, "nothing"),
        (Component::Vae, "nothing"),
    ] {
        let (was, now) = (tensors("nano", part), tensors(model.to_str().unwrap(), part));
        assert_eq!(was.len(), now.len());
        for ((name, was), (_, now)) in was.iter().zip(&now) {
            // a bias before a normalization may have no gradient; weights have
            let unread = name.contains("encoder.layers.3."); // SDXL reads the last layer but one
            if name.starts_with(trained) && name.ends_with(".weight") && !unread {
                assert!(was != now, "{name} did not move");
            } else if !name.starts_with(trained) {
                assert!(was == now, "{name} moved");
            }
        }
    }
    let picture =
        |step: u64| fs::read(out.join(format!("samples/step-00000{step}/00.png"))).unwrap();
    assert!(picture(1) != picture(2), "samples are of the weights of their step");
    let made = |base: &str, name: &str| {
        let to = folder.path().join(name);
        let size = ["--height", "64", "--width", "64", "--steps", "2", "--device", "cpu"];
        let args =
            ["generate", "--base", base, "--prompt", "a bear", "--out", to.to_str().unwrap()];
        run(&[&args[..], &size].concat());
        selvedge::tensor::image::read(&to.join("00000.png")).unwrap()
    };
    assert!(made(model.to_str().unwrap(), "of_model") != made("nano", "of_nano"));
    assert!(
        !fs::read_dir(&out)
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().starts_with('.'))
    );
}

#[test]
fn a_run_starts_from_an_adapter_of_any_convention_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let first =
        ["train.alpha=3.0", "train.steps=2", "train.formats=[\"peft\",\"kohya\",\"comfy\"]"];
    let first = done(f, "first", &first);
    let open = |path: &Path| {
        let modules = selvedge::train::modules(&Base::open("nano").unwrap());
        selvedge::lora::Lora::open(path, "unet", &modules).unwrap().layers
    };
    let want = open(&first.join("adapter.safetensors"));
    // without a learning rate the result is the start
    for (name, file) in
        [("peft", "adapter"), ("kohya", "adapter_kohya"), ("comfy", "adapter_comfy")]
    {
        let from = format!("train.from={:?}", first.join(format!("{file}.safetensors")));
        let still = ["train.learning_rate=0.0", "train.alpha=3.0", "train.steps=1", from.as_str()];
        let out = done(f, name, &still);
        for (module, layer) in open(&out.join("adapter.safetensors")) {
            assert!(layer.same_bits(&want[&module]), "{name}: {module}");
        }
        let other = ["train.learning_rate=0.0", "train.alpha=6.0", "train.steps=1", from.as_str()];
        let out = done(f, &format!("{name}_6"), &other);
        for (module, layer) in open(&out.join("adapter.safetensors")) {
            assert_eq!(layer.alpha, 6.0);
            let sum = |l: &selvedge::lora::Layer| selvedge::lora::delta(l, 1.0).unwrap().data;
            let (got, want) = (sum(&layer), sum(&want[&module]));
            assert!(
                got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-6 * w.abs()),
                "{module}"
            );
        }
        let resolved = fs::read_to_string(out.join("config.toml")).unwrap();
        assert!(resolved.contains(&format!("{file}.safetensors")), "the run records its start");
    }
}

#[test]
fn a_start_that_does_not_fit_is_refused_and_one_that_fits_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let first = done(f, "first", &["train.steps=2"]);
    let from = format!("train.from={:?}", first.join("adapter.safetensors"));
    for (sets, words) in [
        (vec!["train.rank=3"], "set train.rank = 2"),
        (vec!["train.targets=[\"to_q\"]"], "does not train"),
        (vec!["method.loss=mse", "train.train_text_encoder=true"], "nothing for"),
    ] {
        let (out, output) = train(f, "refused", &[&sets[..], &[from.as_str()]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(words), "{error}");
        assert!(!out.exists(), "a refused run leaves a folder");
    }
    let (out, output) = train(f, "absent", &["train.from=\"no.safetensors\""]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no.safetensors") && !out.exists());
    let whole = done(f, "whole", &[from.as_str(), "train.steps=4"]);
    let broken = done(f, "broken", &[from.as_str(), "train.steps=2"]);
    let config = f.join("train.toml");
    run(&[
        "train",
        config.to_str().unwrap(),
        "--out",
        broken.to_str().unwrap(),
        "--resume",
        "--set",
        from.as_str(),
        "--set",
        "train.steps=4",
    ]);
    assert!(adapter(&whole) == adapter(&broken), "resuming changes the result");
    assert!(adapter(&whole) != adapter(&done(f, "fresh", &["train.steps=4"])));
}

#[test]
fn a_prior_set_is_made_once_and_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let sets = [
        "preset=mudi-v1",
        "method.prior_images=2",
        "method.prior_steps=2",
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
    assert!(resolved.contains("preset = \"mudi-v1\"") && resolved.contains("loss = \"mse\""));
    for name in ["adapter", "adapter_kohya", "adapter_comfy"] {
        let header = names(&out.join(format!("{name}.safetensors")));
        assert!(header.contains(r#""selvedge.method":"mudi""#), "{name}: {header}");
    }
}

/// Everything that is text in a PNG of ours.
fn text_of(png: &Path) -> String {
    String::from_utf8_lossy(&fs::read(png).unwrap()).into_owned()
}

#[test]
fn samples_during_training_are_the_methods() {
    let folder = tempfile::tempdir().unwrap();
    let every = ["train.steps=1", "train.sample_every=1", "train.sample_steps=1"];
    let with = |name: &str, more: &[&str]| {
        let named = ["subject.a.token=olis", "subject.b.token=hta"];
        let out = done(folder.path(), name, &[&every[..], &named, more].concat());
        text_of(&out.join("samples/step-000001/00.png"))
    };
    let mudi = with("mudi", &[]);
    assert!(mudi.contains("sticker, collage.") && mudi.contains("seg-mix, gamma 1"), "{mudi}");
    let weak = with("weak", &["train.sample_gamma=0.25", "train.sample_negative=blurry"]);
    assert!(weak.contains("seg-mix, gamma 0.25") && weak.contains("blurry"), "{weak}");
    assert!(!weak.contains("sticker"));
    let plain = with("plain", &["train.sample_init=none"]);
    assert!(!plain.contains("seg-mix"), "{plain}");
    let baseline = with("baseline", &["method.name=dreambooth"]);
    assert!(!baseline.contains("sticker") && !baseline.contains("seg-mix"), "{baseline}");
}

/// `generate` on nano with one step; standard error and the text of the picture.
fn generated(folder: &Path, name: &str, more: &[&str]) -> (String, String) {
    let out = folder.join(name);
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(["generate", "--base", "nano", "--height", "64", "--width", "64"]);
    command.args(["--prompt", "an olis bear", "--steps", "1", "--out"]).arg(&out).args(more);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{name}: {said}");
    (said, text_of(&out.join("00000.png")))
}

#[test]
fn a_mudi_adapter_brings_its_negative_prompt_and_defaults_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let run = done(f, "run", &["train.steps=1"]).join("adapter.safetensors");
    let lora = ["--lora", run.to_str().unwrap()];
    let with = |more: &[&'static str]| [&lora[..], more].concat();
    let (said, text) = generated(f, "mudi", &lora);
    assert!(said.contains("sticker, collage.") && said.contains("--negative"), "{said}");
    assert!(text.contains(r#""negative":"sticker, collage.""#), "{text}");
    assert!(text.contains(r#""guidance":5.0"#) && text.contains(r#""steps":1"#), "{text}");
    assert!(text.contains(r#""spacing":"leading""#) && text.contains(r#""prediction":"epsilon""#));
    let (said, text) = generated(f, "own", &with(&["--negative", "fog", "--prediction", "v"]));
    assert!(!said.contains("sticker") && text.contains(r#""negative":"fog""#), "{text}");
    assert!(text.contains(r#""prediction":"v""#), "{text}");
    for (name, more) in [("none", with(&["--no-negative"])), ("bare", vec![])] {
        let (said, text) = generated(f, name, &more);
        assert!(!said.contains("sticker") && text.contains(r#""negative":null"#), "{text}");
    }
    let kohya =
        done(f, "kohya", &["train.steps=1", "train.formats=[\"kohya\"]", "method.name=dreambooth"]);
    let file = kohya.join("adapter.safetensors");
    let (said, _) = generated(f, "baseline", &["--lora", file.to_str().unwrap()]);
    assert!(!said.contains("sticker"), "{said}");
}

#[test]
fn the_seed_of_the_command_line_goes_before_the_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let f = folder.path();
    let run = |name: &str, args: &[&str]| {
        let out = f.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.env("RAYON_NUM_THREADS", "2");
        command.arg("train").arg(config(f)).arg("--out").arg(&out).args(args);
        let output = command.args(["--set", "train.steps=1"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        adapter(&out)
    };
    let seven = run("seven", &["--seed", "7", "--set", "train.seed=3"]);
    assert!(seven == run("set", &["--set", "train.seed=7"]), "the flag is the key");
    assert!(seven != run("default", &[]));
    let mixes = |name: &str, args: &[&str]| {
        let out = f.join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
        command.arg("mix").arg(config(f)).args(["--count", "4", "--out"]).arg(&out).args(args);
        assert!(command.output().unwrap().status.success());
        fs::read_to_string(out.join("mixes.jsonl")).unwrap()
    };
    let one = mixes("one", &["--seed", "1"]);
    assert!(
        one == mixes("again", &["--set", "train.seed=1"]) && one != mixes("two", &["--seed", "2"])
    );
}

#[test]
fn common_words_and_many_subjects_are_advised_about() {
    let folder = tempfile::tempdir().unwrap();
    let said = |name: &str, sets: &[&str]| {
        let (_, output) = train(folder.path(), name, &[&["train.steps=1"], sets].concat());
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let common = said("common", &["subject.a.token=ult", "subject.b.token=olis"]);
    assert!(common.contains("`ult` is token 4380") && !common.contains("`olis`"), "{common}");
    assert!(common.matches("no caption").count() <= 1, "{common}");
    assert!(!common.contains("method.mix_probability"), "two subjects are the published case");
    let text = fs::read_to_string(config(folder.path())).unwrap();
    let third = text[text.find("[[subject]]\nid = \"b\"").unwrap()..].replace("\"b\"", "\"c\"");
    let file = folder.path().join("three.toml");
    fs::write(&file, format!("{text}{third}")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.arg("train").arg(&file).arg("--out").arg(folder.path().join("three"));
    let output = command.args(["--set", "train.steps=1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("method.mix_probability is 0.3") && said.contains("0.5 to 0.6"),
        "{said}"
    );
}
