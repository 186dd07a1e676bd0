//! A base with changed weights as a complete folder: what is written loads again, and nothing else changes.

use super::{Tensors, fill, save};
use selvedge::models::{
    base::Base,
    checkpoint::{Checkpoint, Component},
    export::{Changed, export},
    tokenizer::Tokenizer,
};
use std::{fs, path::Path};

fn weights(model: &Path, component: Component) -> Vec<(String, Vec<f32>)> {
    let part = Checkpoint::open(model, component).unwrap();
    let names: Vec<String> = part.shapes().map(|(n, _)| n.to_string()).collect();
    names.into_iter().map(|n| (n.clone(), part.tensor(&n).unwrap().data)).collect()
}

#[test]
fn an_embedded_base_is_written_whole_with_the_changed_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let base = Base::open("nano").unwrap();
    let bias =
        vec![
            0.25;
            base.weights.part(Component::Unet).unwrap().tensor("conv_in.bias").unwrap().data.len()
        ];
    let changed = Changed::from([("unet.conv_in.bias", bias.as_slice())]);
    export(&base, &changed, &out).unwrap();
    let (was, now) = (weights(Path::new("nano"), Component::Unet), weights(&out, Component::Unet));
    assert_eq!(was.len(), now.len());
    for ((name, was), (_, now)) in was.iter().zip(&now) {
        assert_eq!(now, if name == "conv_in.bias" { &bias } else { was }, "{name}");
    }
    for component in [Component::Vae, Component::TextEncoder, Component::TextEncoder2] {
        assert_eq!(weights(Path::new("nano"), component), weights(&out, component));
    }
    let again = Base::open(out.to_str().unwrap()).unwrap();
    assert_eq!((again.unet, again.scheduler), (base.unet, base.scheduler));
    assert!(out.join("model_index.json").is_file() && out.join("tokenizer_2/merges.txt").is_file());
    // a folder is a base again, and a second export takes the first one's place
    let base = Base::open(out.to_str().unwrap()).unwrap();
    let next = dir.path().join("next");
    export(&base, &Changed::new(), &next).unwrap();
    export(&base, &changed, &next).unwrap();
    assert_eq!(weights(&next, Component::Unet), now);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing else is left");
    let odd = Changed::from([("unet.no_such.weight", bias.as_slice())]);
    let e = export(&base, &odd, &next).unwrap_err().to_string();
    assert!(e.contains("no_such.weight"), "{e}");
    assert_eq!(weights(&next, Component::Unet), now, "a refused export leaves the old folder");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// A single file with the original names of SDXL: incomplete models, but every kind of name.
fn single() -> Tensors {
    let mut all = super::unet::original_unet();
    // three pooled numbers and six ids of 256
    all.insert("model.diffusion_model.label_emb.0.0.weight".into(), fill(1, &[8, 3 + 6 * 256]));
    all.extend(super::parts::original_vae());
    all.extend(super::parts::open_clip("conditioner.embedders.1.model.", 2));
    let text = "conditioner.embedders.0.transformer.text_model";
    let shapes: [(&str, &[usize]); 4] = [
        ("embeddings.token_embedding.weight", &[10, 2]),
        ("embeddings.position_embedding.weight", &[77, 2]),
        ("encoder.layers.0.mlp.fc1.weight", &[8, 2]),
        ("final_layer_norm.weight", &[2]),
    ];
    all.extend(shapes.iter().enumerate().map(|(i, (n, d))| (format!("{text}.{n}"), fill(i, d))));
    all
}

#[test]
fn a_single_file_becomes_a_folder_with_everything_a_pipeline_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("xl.safetensors"), dir.path().join("model"));
    save(&file, &single());
    let base = Base::open(file.to_str().unwrap()).unwrap();
    let kernel = vec![0.5; 4 * 4 * 9];
    export(&base, &Changed::from([("unet.conv_in.weight", kernel.as_slice())]), &out).unwrap();
    for component in
        [Component::Unet, Component::Vae, Component::TextEncoder, Component::TextEncoder2]
    {
        let (was, now) = (weights(&file, component), weights(&out, component));
        assert!(!was.is_empty() && was.len() == now.len());
        for ((name, was), (_, now)) in was.iter().zip(&now) {
            let trained = component == Component::Unet && name == "conv_in.weight";
            assert_eq!(now, if trained { &kernel } else { was }, "{name}");
        }
    }
    let again = Base::open(out.to_str().unwrap()).unwrap();
    assert_eq!((again.unet, again.vae), (base.unet, base.vae));
    assert_eq!(again.zero_negative, base.zero_negative);
    let index = fs::read_to_string(out.join("model_index.json")).unwrap();
    for word in
        ["StableDiffusionXLPipeline", "EulerDiscreteScheduler", "tokenizer_2", "WithProjection"]
    {
        assert!(index.contains(word), "{word}");
    }
    for (inner, want) in [
        ("tokenizer", Tokenizer::standard().unwrap()),
        ("tokenizer_2", Tokenizer::standard_second().unwrap()),
    ] {
        let component =
            if inner == "tokenizer" { Component::TextEncoder } else { Component::TextEncoder2 };
        assert!(out.join(inner).join("vocab.json").is_file());
        let got = Tokenizer::open(&out, component).unwrap();
        for text in ["A photo of a olis <bear>, 42 times!", "ein süßer Hund", ""] {
            assert_eq!(got.encode(text), want.encode(text), "{text}");
        }
    }
}
