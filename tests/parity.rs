//! The models against diffusers and transformers: every output, input gradient and parameter gradient; the towers
//! with original names against the published code.
//!
//! The cases are written by `tools/fixtures/make_models.py` and `tools/fixtures/make_towers.py`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use selvedge::{
    cli::forward::{Args, run},
    tensor::safetensors::SafeFile,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Largest relative norm of a difference.
const BOUND: f64 = 2e-4;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// What `--model` is given: the file that `file` names, the folder `model`, or the case's own folder.
fn model(case: &Path) -> PathBuf {
    match fs::read_to_string(case.join("file")) {
        Ok(file) => case.join(file.trim()),
        Err(_) if case.join("model").is_dir() => case.join("model"),
        Err(_) => case.to_path_buf(),
    }
}

/// Runs `selvedge forward` on a case; returns the worst relative error and the tensor that has it.
fn worst(case: &Path, out: &Path) -> (f64, String) {
    let word = fs::read_to_string(case.join("component")).unwrap();
    let out = out.join(case.file_name().unwrap()).with_extension("safetensors");
    let text = |path: PathBuf| path.display().to_string();
    let lora = case.join("lora.safetensors");
    let mut words = vec!["forward".to_string(), word.trim().into(), "--model".into()];
    words.extend([text(model(case)), "--inputs".into()]);
    words.extend([text(case.join("inputs.safetensors")), "--outputs".into(), text(out.clone())]);
    let which = fs::read_to_string(case.join("gradients")).unwrap_or("all".into());
    match which.trim() {
        "none" => {}
        _ if lora.exists() => {
            words.extend(["--gradients".into(), "lora".into(), "--lora".into(), text(lora)]);
        }
        which => words.extend(["--gradients".into(), which.into()]),
    }
    let line = Line::parse_from(words);
    if let Err(e) = run(&line.args) {
        panic!("{}: {e}", case.display());
    }
    let (got, want) =
        (SafeFile::open(&out).unwrap(), SafeFile::open(case.join("expected.safetensors")).unwrap());
    for name in got.entries().keys() {
        assert!(want.entries().contains_key(name), "{}: {name} is too much", case.display());
    }
    // The reference is in f64. What is exactly 0 there (a key's bias) has no relative error: its rounding must be
    // small against an ordinary tensor. What is a thousand times below one is what cancellation left, where
    // PyTorch's own f32 is off by 1e-4: it is measured against that floor.
    let mut norms: Vec<f64> =
        want.entries().keys().map(|n| norm(&want.f32(n).unwrap().data)).collect();
    norms.sort_by(f64::total_cmp);
    let ordinary = norms[norms.len() / 2];
    let errors = want.entries().keys().map(|name| {
        let (a, b) = (got.f32(name).unwrap(), want.f32(name).unwrap());
        assert_eq!(a.dims, b.dims, "{}: {name}", case.display());
        let difference: Vec<f32> = a.data.iter().zip(&b.data).map(|(x, y)| x - y).collect();
        let own = norm(&b.data);
        let scale = if own < 1e-9 * ordinary { ordinary } else { own.max(1e-3 * ordinary) };
        let error = norm(&difference) / scale;
        (if error.is_nan() { f64::INFINITY } else { error }, name.clone())
    });
    errors.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap()
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt()
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.join("component").exists());
    all.sort();
    all
}

fn committed(name: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let out = tempfile::tempdir().unwrap();
    let (error, tensor) = worst(&root.join(name), out.path());
    assert!(error < BOUND, "{name}: {tensor} differs by {error:.2e}");
}

#[test]
fn the_sdxl_unet_equals_diffusers() {
    committed("sdxl");
}

#[test]
fn the_sd15_unet_equals_diffusers_on_odd_sizes() {
    committed("sd15");
}

#[test]
fn the_sd21_unet_equals_diffusers() {
    committed("sd21");
}

#[test]
fn adapters_on_linear_layers_and_convolutions_equal_peft() {
    committed("sd15-lora");
}

#[test]
fn the_vae_encoder_equals_diffusers() {
    committed("vae-encoder");
}

#[test]
fn the_vae_decoder_equals_diffusers() {
    committed("vae-decoder");
}

#[test]
fn the_first_text_encoder_equals_transformers() {
    committed("text-encoder");
}

#[test]
fn the_second_text_encoder_equals_transformers() {
    committed("text-encoder-2");
}

#[test]
fn clip_image_towers_equal_transformers_and_open_clip() {
    committed("tower-clip-image");
    committed("tower-clip-original");
}

#[test]
fn the_clip_text_tower_equals_transformers() {
    committed("tower-clip-text");
}

#[test]
fn dino_and_dinov2_equal_their_references_at_other_sizes() {
    committed("tower-dinov2-registers");
    committed("tower-dinov2-swiglu");
    committed("tower-dino-original");
}

#[test]
fn dreamsim_equals_its_published_code() {
    committed("tower-dreamsim");
}

#[test]
fn imagereward_equals_its_published_code() {
    committed("tower-imagereward");
}

#[test]
#[ignore = "needs cases of its own: SELVEDGE_PARITY=FOLDER (see tools/fixtures/make_models.py)"]
fn every_case_of_a_folder_equals_its_reference() {
    let Some(folder) = std::env::var_os("SELVEDGE_PARITY") else { return };
    let out = tempfile::tempdir().unwrap();
    let mut all: Vec<(f64, String)> = vec![];
    for case in cases(Path::new(&folder)) {
        let (error, tensor) = worst(&case, out.path());
        println!("{error:.2e} {} {tensor}", case.display());
        all.push((error, tensor));
    }
    let worst = all.iter().map(|(e, _)| *e).fold(0.0, f64::max);
    println!("worst of {}: {worst:.2e}", all.len());
    assert!(worst < BOUND && !all.is_empty());
}
