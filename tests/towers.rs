//! The towers that judge pictures: sizes of the published ones, and one clear line for files that do not fit.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use clap::Parser;
use selvedge::{
    cli::forward::{Args, run},
    lora::Adapters,
    models::{
        checkpoint::Component,
        towers::{Tower, TowerInputs},
    },
    nn::Net,
    plan::Recorder,
    tensor::{
        Spec,
        safetensors::{Raw, SafeFile},
        write_safetensors,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// Parameters of a tower with transformers' configuration.
fn parameters(component: Component, config: &Value) -> usize {
    let tower = Tower::of_config(component, config).unwrap();
    let (mut rec, none) = (Recorder::new(), Adapters::new());
    let [h, w] = tower.side();
    let inputs = TowerInputs {
        pixels: (h > 0).then(|| rec.input("pixels", Spec::f32(&[1, h, w, 3]))),
        ids: Some(
            rec.input("ids", Spec::i32(&[1, if component == Component::Owlv2 { 16 } else { 77 }])),
        ),
        rows: Some(rec.input("rows", Spec::i32(&[1]))),
        queries: Some(rec.input("queries", Spec::f32(&[1, 1]))),
        ..TowerInputs::default()
    };
    tower.record(&mut Net::new(&mut rec, &none), &inputs).unwrap();
    rec.params().iter().map(|p| p.dims.iter().product::<usize>()).sum()
}

#[test]
fn towers_have_the_published_number_of_parameters() {
    let dinov2 = |width: usize, heads: usize| {
        json!({"model_type": "dinov2", "hidden_size": width, "num_attention_heads": heads,
            "num_hidden_layers": 12, "image_size": 518, "patch_size": 14})
    };
    let clip = json!({"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": 768,
        "text_config": {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12,
            "intermediate_size": 3072},
        "vision_config": {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24,
            "intermediate_size": 4096, "image_size": 224, "patch_size": 14}});
    let owlv2 = json!({"model_type": "owlv2", "vision_config": {"image_size": 960}});
    let large = json!({"model_type": "owlv2", "projection_dim": 768,
        "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        "vision_config": {"image_size": 1008, "patch_size": 14, "hidden_size": 1024,
            "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}});
    for (component, config, want) in [
        (Component::Owlv2, owlv2, 154_573_575), // base-patch16, and a projection nobody asks for
        (Component::Owlv2, large, 436_824_327), // large-patch14
        (Component::Dinov2, dinov2(768, 12), 86_579_712), // and a mask token
        (Component::Dinov2, dinov2(384, 6), 22_056_192),
        (Component::ClipImage, clip.clone(), 303_966_208),
        (Component::ClipText, clip, 123_650_304),
    ] {
        assert_eq!(parameters(component, &config), want, "{component:?}");
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

/// The error of a case with another model.
fn refusal(case: &str, model: &Path) -> String {
    let out = tempfile::tempdir().unwrap();
    let word = fs::read_to_string(fixture(case).join("component")).unwrap();
    let text = |path: PathBuf| path.display().to_string();
    let line = Line::parse_from([
        "forward".to_string(),
        word.trim().into(),
        "--model".into(),
        text(model.to_path_buf()),
        "--inputs".into(),
        text(fixture(case).join("inputs.safetensors")),
        "--outputs".into(),
        text(out.path().join("out.safetensors")),
    ]);
    let error = run(&line.args).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A copy of a transformers folder with other weights.
fn changed(case: &str, change: impl FnOnce(&mut BTreeMap<String, Raw>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture(case).join("model");
    fs::copy(model.join("config.json"), folder.path().join("config.json")).unwrap();
    let file = SafeFile::open(model.join("model.safetensors")).unwrap();
    let names = file.entries().keys();
    let mut all = names.map(|n| (n.clone(), file.raw(n).unwrap())).collect();
    change(&mut all);
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, all.iter().map(|(n, t)| (n.as_str(), t)), &BTreeMap::new()).unwrap();
    folder
}

#[test]
fn every_name_that_does_not_fit_is_listed_as_the_file_has_it() {
    let gone = ["encoder.layer.0.norm1.bias", "encoder.layer.0.attention.output.dense.weight"];
    let folder = changed("tower-dinov2-registers", |all| {
        for name in gone {
            all.remove(name).unwrap();
        }
        all.insert("encoder.layer.0.surprise".into(), Raw::f32(&[1], &[0.0]));
        all.insert("layernorm.bias".into(), Raw::f32(&[3], &[0.0; 3]));
    });
    let text = refusal("tower-dinov2-registers", folder.path());
    for name in [gone[0], gone[1], "encoder.layer.0.surprise", "[3]"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn known_parts_of_the_published_files_are_passed_over() {
    let folder = changed("tower-clip-image", |all| {
        all.insert("logit_scale".into(), Raw::f32(&[], &[4.6]));
        all.insert("vision_model.embeddings.position_ids".into(), Raw::i64(&[1, 2], &[0, 1]));
        all.insert("text_model.final_layer_norm.bias".into(), Raw::f32(&[1], &[0.0]));
        all.insert("stranger".into(), Raw::f32(&[1], &[0.0]));
    });
    let text = refusal("tower-clip-image", folder.path());
    assert!(text.contains("1 unknown: stranger;"), "{text}");
}

#[test]
fn a_folder_of_another_model_is_named() {
    let text = refusal("tower-clip-image", &fixture("tower-dinov2-swiglu").join("model"));
    assert!(text.contains("dinov2") && text.contains("clip_vision_model"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let text = refusal("tower-clip-image", empty.path());
    assert!(text.contains("0 files of weights"), "{text}");
    let text = refusal("tower-dreamsim", empty.path());
    assert!(text.contains("dino_vitb16_pretrain"), "{text}");
}

#[test]
fn owlv2_takes_nothing_but_a_whole_folder_of_its_own() {
    let text = refusal("owlv2", &fixture("tower-clip-image").join("model"));
    assert!(text.contains("clip_vision_model") && text.contains("owlv2"), "{text}");
    let empty = tempfile::tempdir().unwrap();
    let text = refusal("owlv2", empty.path());
    assert!(text.contains("no config.json"), "{text}");
    let gone = "owlv2.vision_model.pre_layernorm.weight";
    let folder = changed("owlv2", |all| {
        all.remove(gone).unwrap();
        all.insert("owlv2.surprise".into(), Raw::f32(&[1], &[0.0]));
        all.insert("owlv2.text_model.embeddings.position_ids".into(), Raw::i64(&[1, 1], &[0]));
        all.insert("box_head.dense2.bias".into(), Raw::f32(&[3], &[0.0; 3]));
    });
    let text = refusal("owlv2", folder.path());
    for name in [gone, "1 unknown: owlv2.surprise", "[3]"] {
        assert!(text.contains(name), "{name}: {text}");
    }
}

#[test]
fn a_picture_of_another_size_is_refused_where_the_table_is_fixed() {
    let out = tempfile::tempdir().unwrap();
    let inputs = out.path().join("inputs.safetensors");
    let picture = Raw::f32(&[1, 3, 64, 96], &vec![0.0; 3 * 64 * 96]);
    write_safetensors(&inputs, [("pixel_values", &picture)], &BTreeMap::new()).unwrap();
    let text = |path: PathBuf| path.display().to_string();
    let line = Line::parse_from([
        "forward".to_string(),
        "clip-image".into(),
        "--model".into(),
        text(fixture("tower-clip-image").join("model")),
        "--inputs".into(),
        text(inputs),
        "--outputs".into(),
        text(out.path().join("out.safetensors")),
    ]);
    let error = run(&line.args).unwrap_err().to_string();
    assert!(error.contains("pixels, the model's own size"), "{error}");
}

#[test]
fn an_adapter_for_a_module_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("tower-dreamsim").join("model");
    fs::create_dir(folder.path().join("ensemble_lora")).unwrap();
    for entry in fs::read_dir(&model).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_file() {
            fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
        }
    }
    let lora = folder.path().join("ensemble_lora");
    fs::copy(model.join("ensemble_lora/adapter_config.json"), lora.join("adapter_config.json"))
        .unwrap();
    let at = "base_model.model.extractor_list.0.model.blocks.77.attn.qkv";
    let (a, b) = (Raw::f32(&[1, 64], &[0.0; 64]), Raw::f32(&[192, 1], &[0.0; 192]));
    let names = [format!("{at}.lora_A.weight"), format!("{at}.lora_B.weight")];
    let tensors = [(names[0].as_str(), &a), (names[1].as_str(), &b)];
    let path = lora.join("adapter_model.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    let text = refusal("tower-dreamsim", folder.path());
    assert!(text.contains("blocks.77"), "{text}");
}
