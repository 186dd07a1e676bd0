//! Conversions come back bit for bit; the commands that convert and export.

use super::{Q, families, fixture, fixture_modules, save, wave};
use proptest::prelude::*;
use selvedge::{
    cli::{convert, export},
    error::Error,
    lora::{Convention, Layer, Lora, LoraFile, Modules, up_name},
    models::checkpoint::{Checkpoint, Component},
    tensor::safetensors::{Dtype, SafeFile},
};
use std::{fs, path::PathBuf};

#[test]
fn every_conversion_of_the_fixture_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let modules = fixture_modules();
    let first = Lora::open(fixture("peft.safetensors"), "unet", &modules).unwrap();
    let mut last = first.clone();
    for to in [
        Convention::Kohya,
        Convention::Comfy,
        Convention::Peft,
        Convention::Comfy,
        Convention::Kohya,
    ] {
        let path = dir.path().join("x.safetensors");
        last.save(&path, to, &modules).unwrap();
        last = Lora::open(&path, "unet", &modules).unwrap();
        assert_eq!(last.layers.len(), first.layers.len());
        assert!(first.layers.iter().all(|(n, l)| l.same_bits(&last.layers[n])), "{to:?}");
    }
    let (tensors, metadata) = first.export(Convention::Kohya, &modules).unwrap();
    assert!(
        tensors.contains_key("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k.alpha")
    );
    assert!(tensors.contains_key("lora_unet_middle_block_0_in_layers_2.lora_down.weight"));
    assert_eq!(metadata["ss_base_model_version"], "sdxl_base_v1-0");
    assert_eq!(metadata["ss_network_dim"], "Dynamic");
    let (tensors, _) = first.export(Convention::Comfy, &modules).unwrap();
    assert!(tensors.contains_key(
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k.lora_up.weight"
    ));
}

#[test]
fn an_adapter_file_knows_its_own_keys() {
    let (_, tensors) = families().remove(6);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.safetensors");
    save(&path, &tensors, &[]);
    let file = LoraFile::open(&path, "unet").unwrap();
    let key = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight";
    assert_eq!(file.stored_name(&up_name(&format!("unet.{Q}"), 0)), Some(key));
    assert_eq!(file.adapters().len(), 3);
}

fn convert_args(
    input: PathBuf,
    output: PathBuf,
    to: Convention,
    base: Option<&str>,
) -> convert::ConvertArgs {
    let base = base.map(PathBuf::from);
    convert::ConvertArgs {
        what: convert::What::Lora(convert::LoraArgs { input, output, to, base, json: false }),
    }
}

#[test]
fn convert_says_ok_and_leaves_nothing_when_the_input_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    save(&input, &families().remove(1).1, &[("modelspec.trigger_phrase", "olis")]);
    let code = convert::run(&convert_args(input.clone(), output.clone(), Convention::Kohya, None))
        .unwrap();
    assert_eq!(code, 0);
    assert_eq!(SafeFile::open(&output).unwrap().metadata()["modelspec.trigger_phrase"], "olis");
    fs::remove_file(&output).unwrap();
    let wrong_base =
        convert::run(&convert_args(input.clone(), output.clone(), Convention::Kohya, Some("nano")));
    assert!(matches!(wrong_base, Err(Error::Weights { .. })));
    fs::write(&input, b"12345678").unwrap();
    assert!(convert::run(&convert_args(input, output.clone(), Convention::Peft, None)).is_err());
    assert!(!output.exists());
}

#[test]
fn the_exported_base_is_the_embedded_one_and_a_used_folder_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("nano");
    let args = |force| export::ExportArgs { model: export::Embedded::Nano, dir: to.clone(), force };
    assert_eq!(export::run(&args(false)).unwrap(), 0);
    assert!(matches!(export::run(&args(false)), Err(Error::Config { .. })));
    assert_eq!(export::run(&args(true)).unwrap(), 0);
    for component in
        [Component::Unet, Component::Vae, Component::TextEncoder, Component::TextEncoder2]
    {
        let (a, b) = (
            Checkpoint::open("nano", component).unwrap(),
            Checkpoint::open(&to, component).unwrap(),
        );
        assert_eq!(a.config(), b.config());
        for (name, _) in a.shapes() {
            assert_eq!(a.tensor(name).unwrap(), b.tensor(name).unwrap(), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn any_adapter_survives_any_chain_of_conventions(
        picks in proptest::collection::btree_map(
            0usize..9, (1usize..5, 0.01f32..64.0, any::<bool>()), 1..9,
        ),
        chain in proptest::collection::vec(0usize..3, 1..4),
    ) {
        let names = [
            "unet.mid_block.attentions.0.transformer_blocks.3.attn2.to_v",
            "unet.up_blocks.2.resnets.1.conv_shortcut",
            "unet.down_blocks.0.downsamplers.0.conv",
            "unet.up_blocks.0.upsamplers.0.conv",
            "unet.time_embedding.linear_2",
            "unet.up_blocks.1.attentions.2.transformer_blocks.0.ff.net.0.proj",
            "text_encoder.text_model.encoder.layers.11.mlp.fc1",
            "text_encoder_2.text_model.encoder.layers.31.self_attn.out_proj",
            "unet.down_blocks.2.attentions.1.proj_in",
        ];
        let first = Lora::from_layers(picks.iter().map(|(i, (rank, alpha, half))| {
            let dtype = if *half { Dtype::BF16 } else { Dtype::F32 };
            let (down, up) = (wave(*i, &[*rank, 6]), wave(i + 3, &[4, *rank]));
            Layer::new(names[*i], &down, &up, *alpha, dtype).unwrap()
        }));
        let dir = tempfile::tempdir().unwrap();
        let mut last = first.clone();
        for i in chain {
            let to = [Convention::Peft, Convention::Kohya, Convention::Comfy][i];
            let path = dir.path().join("x.safetensors");
            last.save(&path, to, Modules::standard()).unwrap();
            last = Lora::open(&path, "unet", Modules::standard()).unwrap();
            prop_assert_eq!(last.layers.len(), first.layers.len());
            prop_assert!(first.layers.iter().all(|(n, l)| l.same_bits(&last.layers[n])));
        }
    }
}
