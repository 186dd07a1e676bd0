//! Checkpoints in every layout give the same parameters under the same names.
#![allow(clippy::unwrap_used)]

mod export;
mod parts;
mod unet;

use selvedge::{
    plan::{ParamInfo, WeightLayout},
    tensor::{safetensors::Raw, write_safetensors},
};
use std::{collections::BTreeMap, fs, path::Path};

type Tensors = BTreeMap<String, Raw>;

/// Numbers that depend on the name's seed, so that a swap of two tensors shows.
fn fill(seed: usize, dims: &[usize]) -> Raw {
    let n: usize = dims.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((seed * 7919 + i * 31) % 2003) as f32 / 511.0).collect();
    Raw::f32(dims, &data)
}

fn save(path: impl AsRef<Path>, tensors: &Tensors) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    write_safetensors(path, tensors.iter().map(|(n, r)| (n.as_str(), r)), &BTreeMap::new())
        .unwrap();
}

fn save_json(path: impl AsRef<Path>, json: serde_json::Value) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, json.to_string()).unwrap();
}

fn param(name: &str, dims: &[usize], layout: WeightLayout) -> ParamInfo {
    ParamInfo { name: name.into(), dims: dims.to_vec(), layout, trainable: false }
}
