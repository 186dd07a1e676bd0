//! A small random SAM, and running the program on it.
#![allow(clippy::unwrap_used)]

use selvedge::tensor::{
    philox::fill_normal,
    safetensors::{Raw, SafeFile},
    write_safetensors,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};

pub fn selvedge(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_selvedge")).args(args).output().unwrap()
}

/// What a run said; it did not panic.
pub fn error_of(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("panicked"), "{error}");
    error
}

/// The message of a run that must end with exit status 2.
pub fn refusal(args: &[&str]) -> String {
    let output = selvedge(args);
    let error = error_of(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    error
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn normal(dims: &[usize], seed: u64) -> Raw {
    let mut data = vec![0.0; dims.iter().product()];
    fill_normal(seed, 0, &mut data);
    Raw::f32(dims, &data)
}

/// An encoder for pictures of 64 x 144 pixels and a decoder as wide as its output; returns the path.
pub fn sam(path: &Path) -> String {
    let mut all = BTreeMap::new();
    for part in ["07-original-encoder", "08-original-decoder"] {
        let file =
            SafeFile::open(fixtures().join("sam").join(part).join("sam.safetensors")).unwrap();
        all.extend(file.entries().keys().map(|n| (n.clone(), file.raw(n).unwrap())));
    }
    for (seed, (name, dims)) in [
        ("0.weight", &[16, 8, 1, 1][..]),
        ("1.weight", &[16]),
        ("1.bias", &[16]),
        ("2.weight", &[16, 16, 3, 3]),
        ("3.weight", &[16]),
        ("3.bias", &[16]),
    ]
    .into_iter()
    .enumerate()
    {
        all.insert(format!("image_encoder.neck.{name}"), normal(dims, seed as u64));
    }
    // patches of 16, as published networks have them
    all.insert("image_encoder.patch_embed.proj.weight".into(), normal(&[8, 3, 16, 16], 9));
    let list = all.iter().map(|(n, t)| (n.as_str(), t));
    write_safetensors(path, list, &BTreeMap::new()).unwrap();
    path.display().to_string()
}
