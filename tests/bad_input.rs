//! Bad input ends with exit code 2 and one clear line, and leaves nothing half-written.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap()
}

/// Exit code 2, no panic, one `error:` line that contains every one of `words`.
fn refused(args: &[&str], words: &[&str]) {
    let out = selvedge(args);
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {text}");
    for w in words {
        assert!(errors[0].contains(w), "{args:?}: {w:?} is not in: {}", errors[0]);
    }
}

/// An RGB or grey PNG of one value.
fn png(path: &Path, side: u32, colour: png::ColorType, value: u8) {
    let mut encoder = png::Encoder::new(fs::File::create(path).unwrap(), side, side);
    encoder.set_color(colour);
    let data = vec![value; (side * side) as usize * colour.samples()];
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
}

/// A folder with two good subjects and a small training configuration on `nano`.
fn workplace() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    for (id, value) in [("a", 40), ("b", 200)] {
        let photos = dir.path().join(id);
        fs::create_dir(&photos).unwrap();
        png(&photos.join("00.png"), 64, png::ColorType::Rgb, value);
        png(&photos.join("00_mask.png"), 64, png::ColorType::Grayscale, 255);
    }
    let subject = |id: &str, token: &str| {
        format!(
            "[[subject]]\nid = \"{id}\"\ntoken = \"{token}\"\nclass = \"bear\"\nimages = \"{}\"\n",
            dir.path().join(id).display()
        )
    };
    let head = "base = \"nano\"\n";
    let tail = "[method]\nname = \"mudi\"\n[train]\nresolution = 128\nsteps = 1\nrank = 2\nsample_every = 0\n";
    let text = format!("{head}{}{}{tail}", subject("a", "olis"), subject("b", "hta"));
    fs::write(dir.path().join("good.toml"), &text).unwrap();
    (dir, text)
}

fn train_with(dir: &TempDir, text: &str, words: &[&str]) {
    let config = dir.path().join("config.toml");
    fs::write(&config, text).unwrap();
    let out = dir.path().join("run");
    refused(&["train", config.to_str().unwrap(), "--out", out.to_str().unwrap()], words);
    assert!(!out.join("adapter.safetensors").exists(), "no result of a refused run");
}

#[test]
fn a_missing_configuration_is_named() {
    refused(&["train", "no/such.toml", "--out", "unused"], &["no/such.toml", "check the path"]);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let (dir, text) = workplace();
    train_with(&dir, &text.replace("steps =", "stepz ="), &["stepz", "steps"]);
    train_with(&dir, &text.replace("name = \"mudi\"", "name = \"mudy\""), &["mudy", "mudi"]);
}

#[test]
fn subjects_without_pictures_are_named() {
    let (dir, text) = workplace();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let a = dir.path().join("a");
    let to = |new: &Path| text.replace(a.to_str().unwrap(), new.to_str().unwrap());
    train_with(&dir, &to(&empty), &["empty"]);
    train_with(&dir, &to(&dir.path().join("nowhere")), &["nowhere"]);
}

#[test]
fn a_picture_that_is_no_picture_is_named() {
    let (dir, text) = workplace();
    fs::write(dir.path().join("a/00.png"), "hello").unwrap();
    train_with(&dir, &text, &["00.png"]);
    fs::write(dir.path().join("a/00.png"), [0x89, b'P', b'N', b'G', 13, 10, 26, 10, 0, 0]).unwrap();
    train_with(&dir, &text, &["00.png"]);
}

#[test]
fn an_empty_mask_is_named() {
    let (dir, text) = workplace();
    png(&dir.path().join("a/00_mask.png"), 64, png::ColorType::Grayscale, 0);
    train_with(&dir, &text, &["00_mask.png"]);
}

#[test]
fn one_subject_is_not_enough_for_mixes() {
    let (dir, text) = workplace();
    let second = text.rfind("[[subject]]").unwrap();
    let method = text.find("[method]").unwrap();
    let one = format!("{}{}", &text[..second], &text[method..]);
    train_with(&dir, &one, &["[[subject]]", "at least 2"]);
}

#[test]
fn a_missing_base_and_a_broken_checkpoint_are_named() {
    let (dir, text) = workplace();
    train_with(&dir, &text.replace("\"nano\"", "\"no/such/base\""), &["no/such/base"]);
    let broken = dir.path().join("broken.safetensors");
    for bytes in [&b"xyz"[..], &[0xFF; 16], &[8, 0, 0, 0, 0, 0, 0, 0, b'{', b'}']] {
        fs::write(&broken, bytes).unwrap();
        let path = broken.to_str().unwrap();
        train_with(&dir, &text.replace("nano", path), &["broken.safetensors"]);
        refused(
            &["forward", "unet", "--model", path, "--inputs", path, "--outputs", "unused"],
            &["broken.safetensors"],
        );
    }
}

#[test]
fn generate_refuses_what_it_cannot_use() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pictures");
    let base = ["generate", "--base", "nano", "--prompt", "a bear", "--out", out.to_str().unwrap()];
    let with = |more: &[&'static str]| [&base[..], more].concat();
    refused(&with(&["--lora", "missing.safetensors"]), &["missing.safetensors"]);
    refused(&with(&["--init", "seg-mix"]), &["--subjects"]);
    refused(&with(&["--apart"]), &["--apart", "--init seg-mix"]);
    refused(&with(&["--latents", "missing.safetensors"]), &["missing.safetensors"]);
    assert!(!out.join("00000.png").exists());
}

#[test]
fn numbers_that_mean_nothing_are_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pictures");
    // a base that does not exist: the number is named, not the base
    let base = ["generate", "--base", "no/base", "--prompt", "x", "--out", out.to_str().unwrap()];
    for (flag, value) in [
        ("--gamma", "-3"),
        ("--gamma", "nan"),
        ("--guidance", "nan"),
        ("--guidance", "inf"),
        ("--guidance", "-1"),
        ("--count", "0"),
        ("--batch", "0"),
        ("--steps", "0"),
        ("--prediction", "w"),
        ("--spacing", "sideways"),
        ("--vae-dtype", "f64"),
    ] {
        refused(
            &[&base[..], &[flag, value]].concat(),
            &[if flag == "--vae-dtype" { "f64" } else { flag }],
        );
    }
    refused(&["quickstart", "--count", "0", "--out", "unused"], &["--count"]);
    let (place, _) = workplace();
    let good = place.path().join("good.toml");
    let mixes = dir.path().join("mixes");
    let (good, mixes) = (good.to_str().unwrap(), mixes.to_str().unwrap());
    refused(&["mix", good, "--count", "0", "--out", mixes], &["--count"]);
    refused(&["train", good, "--preset", "mudi-v3", "--out", mixes], &["mudi-dco or mudi-v1"]);
    refused(&["train", good, "--prediction", "w", "--out", mixes], &["epsilon"]);
}

#[test]
fn an_initialization_needs_a_subject_that_the_prompt_names() {
    let (dir, _) = workplace();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let layout = |name: &str, id: &str| {
        let text = format!(r#"{{"subjects":[{{"id":"{id}","box":[0,0,500,900]}}]}}"#);
        fs::write(dir.path().join(name), text).unwrap();
        file(name)
    };
    let run = |prompt: &str, init: &str, words: &[&str]| {
        let (subjects, out) = (file("good.toml"), file("pictures"));
        let args = ["generate", "--base", "no/base", "--subjects", &subjects, "--out", &out];
        refused(&[&args[..], &["--prompt", prompt, "--init", init]].concat(), words);
    };
    run("a photo of a cat", "seg-mix", &["names no subject", "`olis bear`", "`hta bear`"]);
    run("a photo of a cat", &layout("a.json", "a"), &["names no subject"]);
    run("an olis bear", &layout("z.json", "z"), &["subject z", "a, b"]);
    run("an olis bear", &layout("b.json", "b"), &["no/base"]); // all is well up to the base
}

#[test]
fn an_unknown_flag_or_device_is_refused() {
    assert_eq!(selvedge(&["train", "--nonsense"]).status.code(), Some(2));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let args = ["generate", "--base", "nano", "--prompt", "a bear", "--out", out];
    refused(&[&args[..], &["--device", "toaster"]].concat(), &["toaster", "cpu"]);
}

#[test]
fn pictures_that_do_not_fit_are_refused_with_the_nearest_batch() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pictures");
    let base = ["generate", "--base", "nano", "--prompt", "a bear", "--out", out.to_str().unwrap()];
    let many = ["--device", "cpu", "--count", "1000000", "--batch", "1000000"];
    refused(&[&base[..], &many].concat(), &["this would fit: --batch "]);
    let large = ["--device", "cpu", "--height", "16384", "--width", "16384"];
    refused(&[&base[..], &large].concat(), &["out of memory", "this would fit: --height "]);
    assert!(!out.exists());
}
