//! Every family of names reads as the same layers; what is no plain adapter is refused.

use super::{OUT, Q, TEXT, families, fixture_modules, keyed, pair, read, save};
use selvedge::{
    error::Error,
    lora::{Lora, Modules},
    tensor::safetensors::{Dtype, Raw},
};
use std::fs;

#[test]
fn every_family_of_names_reads_as_the_same_layers() {
    for (family, tensors) in families() {
        let lora = read(&tensors, &[]).unwrap_or_else(|e| panic!("{family}: {e}"));
        let names: Vec<&str> = lora.layers.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [format!("text_encoder.{TEXT}"), format!("unet.{OUT}"), format!("unet.{Q}")],
            "{family}"
        );
        for (module, seed) in [
            (format!("unet.{Q}"), 0),
            (format!("unet.{OUT}"), 10),
            (format!("text_encoder.{TEXT}"), 20),
        ] {
            let layer = &lora.layers[&module];
            assert_eq!(
                (layer.down.clone(), layer.up.clone()),
                pair(seed, Dtype::F16),
                "{family}: {module}"
            );
            assert_eq!(layer.alpha, 2.0, "{family}: no alpha means the rank");
        }
    }
}

#[test]
fn alpha_comes_from_the_file_or_from_pefts_description_and_zero_means_the_rank() {
    let mut kohya = keyed(
        &format!("lora_unet_{}", Q.replace('.', "_")),
        ".lora_down.weight",
        ".lora_up.weight",
        0,
    );
    let alpha = format!("lora_unet_{}.alpha", Q.replace('.', "_"));
    for (stored, want) in [
        (Raw::f32(&[], &[0.5]), 0.5),
        (Raw::rounded(&[], &[8.0], Dtype::F16), 8.0),
        (Raw::f32(&[], &[0.0]), 2.0),
    ] {
        kohya.push((alpha.clone(), stored));
        let layer = read(&kohya, &[]).unwrap().layers[&format!("unet.{Q}")].clone();
        assert_eq!((layer.alpha, layer.scale()), (want, want / 2.0));
        kohya.pop();
    }
    let peft = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    for (json, want) in [
        (r#"{"unet.r": 2, "unet.lora_alpha": 7}"#, 7.0),
        (r#"{"unet.r": 2, "unet.lora_alpha": 7, "unet.alpha_pattern": {"attn1.to_q": 3}}"#, 3.0),
        (r#"{"unet.lora_alpha": 7, "unet.alpha_pattern": {"attn2.to_q": 3}}"#, 7.0),
        (r#"{"unet.lora_alpha": 7, "unet.use_rslora": true}"#, 7.0 * 2f32.sqrt()),
        (r#"{"text_encoder.lora_alpha": 7}"#, 2.0),
    ] {
        let lora = read(&peft, &[("lora_adapter_metadata", json)]).unwrap();
        assert_eq!(lora.layers[&format!("unet.{Q}")].alpha, want, "{json}");
    }
    let raw = keyed(&format!("base_model.model.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_config.json"), r#"{"r": 2, "lora_alpha": 5}"#).unwrap();
    save(&dir.path().join("adapter_model.safetensors"), &raw, &[]);
    let lora =
        Lora::open(dir.path().join("adapter_model.safetensors"), "unet", Modules::standard())
            .unwrap();
    assert_eq!(lora.layers[&format!("unet.{Q}")].alpha, 5.0);
}

#[test]
fn other_kinds_of_adapters_are_refused_by_name() {
    let stem = "lora_unet_down_blocks_0_resnets_0_conv1";
    for (key, kind) in [
        ("hada_w1_a", "LoHa"),
        ("lokr_w1", "LoKr"),
        ("dora_scale", "DoRA"),
        ("lora_mid.weight", "Tucker"),
        ("diff", "full differences"),
        ("diff_b", "full differences"),
    ] {
        let mut tensors = keyed(stem, ".lora_down.weight", ".lora_up.weight", 0);
        tensors.push((format!("{stem}.{key}"), Raw::f32(&[1], &[0.0])));
        let error = read(&tensors, &[]).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(kind) && error.to_string().contains(stem), "{error}");
    }
    let positional = vec![("unet:0:down".to_string(), Raw::f32(&[1], &[0.0]))];
    assert!(read(&positional, &[]).unwrap_err().to_string().contains("positional"));
    let peft = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    let dora = read(&peft, &[("lora_adapter_metadata", r#"{"unet.use_dora": true}"#)]);
    assert!(dora.unwrap_err().to_string().contains("DoRA"));
    assert!(matches!(read(&peft, &[("lora_adapter_metadata", "[")]), Err(Error::Format { .. })));
}

#[test]
fn unknown_missing_and_misshaped_layers_come_in_one_error() {
    let mut tensors = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    tensors.truncate(1);
    tensors.push((format!("unet.{OUT}.lora_A.weight"), Raw::f32(&[2, 6], &[0.0; 12])));
    tensors.push((format!("unet.{OUT}.lora_B.weight"), Raw::f32(&[5, 3], &[0.0; 15])));
    tensors.push(("unet.somewhere.else.lora_A.weight".into(), Raw::f32(&[2, 6], &[0.0; 12])));
    tensors.push((
        "lora_unet_mid_block_attentions_0_nothing.lora_down.weight".into(),
        Raw::f32(&[1], &[0.0]),
    ));
    match read(&tensors, &[]).unwrap_err() {
        Error::Weights { missing, unknown, misshaped, .. } => {
            assert_eq!((missing.len(), unknown.len(), misshaped.len()), (1, 2, 1));
            assert!(missing[0].contains(Q) && misshaped[0].contains(OUT));
        }
        other => panic!("{other}"),
    }
    assert!(matches!(read(&vec![], &[]), Err(Error::Weights { .. })));
    let mut twice = keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0);
    twice.extend(keyed(&format!("unet.{Q}"), ".lora.down.weight", ".lora.up.weight", 0));
    assert!(matches!(read(&twice, &[]), Err(Error::Data { .. })));
}

#[test]
fn a_layer_of_another_shape_than_the_base_is_refused() {
    let modules = fixture_modules();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    save(&path, &keyed(&format!("unet.{Q}"), ".lora_A.weight", ".lora_B.weight", 0), &[]);
    let error = Lora::open(&path, "unet", &modules).unwrap_err();
    assert!(error.to_string().contains("adapts [5, 6], the base has [16, 16]"), "{error}");
}

#[test]
fn a_models_own_modules_count_where_known_and_the_standard_ones_elsewhere() {
    let own = Modules::of([("unet.down_blocks.9.attentions.7.proj_in.weight", &[6usize, 6][..])]);
    assert!(own.contains("unet.down_blocks.9.attentions.7.proj_in"));
    assert!(!own.contains(&format!("unet.{Q}")));
    assert!(own.contains(&format!("text_encoder.{TEXT}")));
    assert_eq!(own.is_sdxl(), Some(false));
    let text = Modules::of([("text_encoder.text_projection.weight", &[6usize, 6][..])]);
    assert!(text.contains(&format!("unet.{Q}")) && !text.contains(&format!("text_encoder.{TEXT}")));
    assert_eq!(text.is_sdxl(), None);
}
