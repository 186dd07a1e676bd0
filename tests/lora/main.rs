//! Adapter files: every convention reads the same, what is written is read back bit for bit.
#![allow(clippy::unwrap_used)]

mod convert;
mod fold;
mod read;

use selvedge::{
    error::Error,
    lora::{Lora, Modules},
    tensor::{
        Tensor,
        safetensors::{Dtype, Raw},
        write_safetensors,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";
const OUT: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0";
const TEXT: &str = "text_model.encoder.layers.3.self_attn.q_proj";

fn wave(seed: usize, dims: &[usize]) -> Tensor {
    Tensor::from_fn(dims, |i| ((seed * 131 + i * 17) % 97) as f32 / 61.0 - 0.7)
}

fn pair(seed: usize, dtype: Dtype) -> (Raw, Raw) {
    let (down, up) = (wave(seed, &[2, 6]), wave(seed + 1, &[5, 2]));
    (Raw::rounded(&[2, 6], &down.data, dtype), Raw::rounded(&[5, 2], &up.data, dtype))
}

type Tensors = Vec<(String, Raw)>;

fn save(path: &Path, tensors: &Tensors, metadata: &[(&str, &str)]) {
    let metadata = metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    write_safetensors(path, tensors.iter().map(|(n, r)| (n.as_str(), r)), &metadata).unwrap();
}

fn read(tensors: &Tensors, metadata: &[(&str, &str)]) -> Result<Lora, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lora.safetensors");
    save(&path, tensors, metadata);
    Lora::open(&path, "unet", Modules::standard())
}

/// The keys of one pair: what stands before `down` and `up`, and the two words.
fn keyed(stem: &str, down: &str, up: &str, seed: usize) -> Tensors {
    let (d, u) = pair(seed, Dtype::F16);
    vec![(format!("{stem}{down}"), d), (format!("{stem}{up}"), u)]
}

/// The same three layers in every family of names.
fn families() -> Vec<(&'static str, Tensors)> {
    let three = |stems: [String; 3], down: &str, up: &str| -> Tensors {
        stems.iter().enumerate().flat_map(|(i, s)| keyed(s, down, up, i * 10)).collect()
    };
    let dotted = |unet: &str, text: &str| {
        [format!("{unet}{Q}"), format!("{unet}{OUT}"), format!("{text}{TEXT}")]
    };
    let flat = |p: &str| p.replace('.', "_");
    let mut diffusers =
        three(dotted("unet.", "text_encoder."), ".lora.down.weight", ".lora.up.weight");
    for (name, _) in diffusers.iter_mut().filter(|(n, _)| n.starts_with("text")) {
        *name = name.replace(".lora.", ".lora_linear_layer.");
    }
    let old = |p: &str| {
        p.replace("attn1.", "attn1.processor.")
            .replace(".0_lora", "_lora")
            .replace("to_out.0", "to_out")
    };
    let mut processors = three(
        [
            format!("unet.{}", old(Q)),
            old(OUT),
            "text_encoder.text_model.encoder.layers.3.self_attn.to_q".into(),
        ],
        "_lora.down.weight",
        "_lora.up.weight",
    );
    processors.reverse();
    let kohya = |q: &str, out: &str| {
        let stems = [
            format!("lora_unet_{}", flat(q)),
            format!("lora_unet_{}", flat(out)),
            format!("lora_te1_{}", flat(TEXT)),
        ];
        three(stems, ".lora_down.weight", ".lora_up.weight")
    };
    let sgm = |p: &str| p.replace("down_blocks.1.attentions.0", "input_blocks.4.1");
    let native = [
        format!("diffusion_model.{}", sgm(Q)),
        format!("diffusion_model.{}", sgm(OUT)),
        format!("lora_te_{}", flat(TEXT)),
    ];
    vec![
        ("diffusers", diffusers),
        (
            "peft in diffusers",
            three(dotted("unet.", "text_encoder."), ".lora_A.weight", ".lora_B.weight"),
        ),
        ("bare paths", three(dotted("", ""), ".lora_A.weight", ".lora_B.weight")),
        ("attention processors", processors),
        (
            "raw peft",
            three(
                dotted("base_model.model.", "base_model.model."),
                ".lora_A.default.weight",
                ".lora_B.default.weight",
            ),
        ),
        ("kohya, diffusers path", kohya(Q, OUT)),
        ("kohya, original path", kohya(&sgm(Q), &sgm(OUT))),
        (
            "model's own names",
            three(native, ".lora_up.weight", ".lora_down.weight").into_iter().map(swap).collect(),
        ),
    ]
}

/// `three` was told the words the wrong way round on purpose: up first in the file's order.
fn swap((name, raw): (String, Raw)) -> (String, Raw) {
    let other = match name.strip_suffix(".lora_up.weight") {
        Some(stem) => format!("{stem}.lora_down.weight"),
        None => name.replace(".lora_down.weight", ".lora_up.weight"),
    };
    (other, raw)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

fn fixture_modules() -> Modules {
    let shapes: BTreeMap<String, Vec<usize>> =
        serde_json::from_slice(&fs::read(fixture("modules.json")).unwrap()).unwrap();
    Modules::of(shapes.iter().map(|(n, d)| (n.as_str(), d.as_slice())))
}
