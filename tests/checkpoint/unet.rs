//! U-Nets: folders, shards, variants, single files; what does not fit is listed.

use super::{Tensors, fill, param, save, save_json};
use selvedge::{
    error::Error,
    models::checkpoint::{Checkpoint, Component, Model, model_json},
    plan::{ParamInfo, WeightLayout, WeightSource},
    tensor::safetensors::{Dtype, Raw},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A two-level U-Net with one resnet a block: original name, diffusers name, dims.
fn unet_names() -> Vec<(&'static str, &'static str, Vec<usize>)> {
    vec![
        ("time_embed.0.weight", "time_embedding.linear_1.weight", vec![8, 4]),
        ("label_emb.0.0.weight", "add_embedding.linear_1.weight", vec![8, 20]),
        ("input_blocks.0.0.weight", "conv_in.weight", vec![4, 4, 3, 3]),
        (
            "input_blocks.1.0.in_layers.2.weight",
            "down_blocks.0.resnets.0.conv1.weight",
            vec![4, 4, 3, 3],
        ),
        (
            "input_blocks.2.0.op.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
            vec![4, 4, 3, 3],
        ),
        (
            "input_blocks.3.0.in_layers.2.weight",
            "down_blocks.1.resnets.0.conv1.weight",
            vec![8, 4, 3, 3],
        ),
        (
            "input_blocks.3.0.skip_connection.weight",
            "down_blocks.1.resnets.0.conv_shortcut.weight",
            vec![8, 4, 1, 1],
        ),
        (
            "input_blocks.3.1.proj_in.weight",
            "down_blocks.1.attentions.0.proj_in.weight",
            vec![8, 8],
        ),
        (
            "input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight",
            vec![8, 6],
        ),
        (
            "middle_block.0.out_layers.3.weight",
            "mid_block.resnets.0.conv2.weight",
            vec![8, 8, 3, 3],
        ),
        ("output_blocks.1.1.norm.weight", "up_blocks.0.attentions.1.norm.weight", vec![8]),
        ("output_blocks.1.2.conv.weight", "up_blocks.0.upsamplers.0.conv.weight", vec![8, 8, 3, 3]),
        (
            "output_blocks.2.0.emb_layers.1.bias",
            "up_blocks.1.resnets.0.time_emb_proj.bias",
            vec![4],
        ),
        ("out.2.weight", "conv_out.weight", vec![4, 4, 3, 3]),
    ]
}

/// The parameters of `unet_names` as a model would record them.
fn unet_params() -> Vec<ParamInfo> {
    let one = |(_, name, d): (&str, &str, Vec<usize>)| match d[..] {
        [o, i, 1, 1] => param(&format!("unet.{name}"), &[o, i], WeightLayout::Conv1x1),
        [o, i, h, w] => param(&format!("unet.{name}"), &[o, h, w, i], WeightLayout::Conv),
        _ => param(&format!("unet.{name}"), &d, WeightLayout::Dense),
    };
    unet_names().into_iter().map(one).collect()
}

fn diffusers_unet() -> Tensors {
    let all = unet_names().into_iter().enumerate();
    all.map(|(i, (_, name, dims))| (name.to_string(), fill(i, &dims))).collect()
}

pub fn original_unet() -> Tensors {
    let all = unet_names().into_iter().enumerate();
    all.map(|(i, (name, _, dims))| (format!("model.diffusion_model.{name}"), fill(i, &dims)))
        .collect()
}

fn unet_folder(dir: &Path) -> PathBuf {
    save_json(
        dir.join("unet/config.json"),
        json!({"_class_name": "UNet2DConditionModel", "layers_per_block": 1}),
    );
    dir.join("unet")
}

fn assert_same_unet(checkpoint: &Checkpoint) {
    checkpoint.check(&unet_params()).unwrap();
    for (name, raw) in diffusers_unet() {
        assert_eq!(checkpoint.tensor(&name).unwrap(), raw.to_tensor().unwrap(), "{name}");
    }
}

#[test]
fn a_diffusers_folder_and_its_component_folder_and_shards_and_the_single_file_agree() {
    let dir = tempfile::tempdir().unwrap();
    let unet = unet_folder(dir.path());
    save_json(dir.path().join("model_index.json"), json!({"force_zeros_for_empty_prompt": true}));
    save(unet.join("diffusion_pytorch_model.safetensors"), &diffusers_unet());
    assert_same_unet(&Checkpoint::open(dir.path(), Component::Unet).unwrap());
    assert_same_unet(&Checkpoint::open(&unet, Component::Unet).unwrap());
    let index = model_json(dir.path(), "model_index.json").unwrap().unwrap();
    assert_eq!(index["force_zeros_for_empty_prompt"], true);
    assert_eq!(model_json(dir.path(), "nothing.json").unwrap(), None);

    fs::remove_file(unet.join("diffusion_pytorch_model.safetensors")).unwrap();
    let (mut first, mut second, mut map) = (Tensors::new(), Tensors::new(), serde_json::Map::new());
    for (i, (name, raw)) in diffusers_unet().into_iter().enumerate() {
        let (shard, file) = if i % 2 == 0 {
            (&mut first, "a-1.safetensors")
        } else {
            (&mut second, "a-2.safetensors")
        };
        map.insert(name.clone(), json!(file));
        shard.insert(name, raw);
    }
    save(unet.join("a-1.safetensors"), &first);
    save(unet.join("a-2.safetensors"), &second);
    save_json(
        unet.join("diffusion_pytorch_model.safetensors.index.json"),
        json!({"weight_map": map}),
    );
    assert_same_unet(&Checkpoint::open(dir.path(), Component::Unet).unwrap());

    let file = dir.path().join("single.safetensors");
    save(&file, &original_unet());
    let single = Checkpoint::open(&file, Component::Unet).unwrap();
    assert_same_unet(&single);
    assert_eq!(
        single.stored_name("conv_in.weight"),
        Some("model.diffusion_model.input_blocks.0.0.weight")
    );
    let config = single.config();
    assert_eq!(config["block_out_channels"], json!([4, 8]));
    assert_eq!(config["layers_per_block"], 1);
    assert_eq!(config["down_block_types"], json!(["DownBlock2D", "CrossAttnDownBlock2D"]));
    assert_eq!(config["up_block_types"], json!(["CrossAttnUpBlock2D", "UpBlock2D"]));
    assert_eq!(config["cross_attention_dim"], 6);
    assert_eq!(config["use_linear_projection"], true);
    assert_eq!(config["projection_class_embeddings_input_dim"], 20);
}

#[test]
fn a_shard_index_cannot_point_outside_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let unet = unet_folder(dir.path());
    save(dir.path().join("secret.safetensors"), &diffusers_unet());
    let map = json!({"weight_map": {"conv_in.weight": "../secret.safetensors"}});
    save_json(unet.join("diffusion_pytorch_model.safetensors.index.json"), map);
    let error = Checkpoint::open(dir.path(), Component::Unet).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
}

#[test]
fn full_precision_is_preferred_to_half_and_half_is_read_when_alone() {
    let dir = tempfile::tempdir().unwrap();
    let unet = unet_folder(dir.path());
    let half: Tensors = diffusers_unet()
        .into_iter()
        .map(|(n, r)| (n, Raw::rounded(&r.dims, &r.to_tensor().unwrap().data, Dtype::F16)))
        .collect();
    save(unet.join("diffusion_pytorch_model.fp16.safetensors"), &half);
    let checkpoint = Checkpoint::open(dir.path(), Component::Unet).unwrap();
    checkpoint.check(&unet_params()).unwrap();
    let t = checkpoint.tensor("conv_in.weight").unwrap();
    let exact = diffusers_unet()["conv_in.weight"].to_tensor().unwrap();
    let worst = t.data.iter().zip(&exact.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 2e-3, "{worst}");
    save(unet.join("diffusion_pytorch_model.safetensors"), &diffusers_unet());
    assert_same_unet(&Checkpoint::open(dir.path(), Component::Unet).unwrap());
}

#[test]
fn unknown_missing_and_misshaped_names_come_in_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let unet = unet_folder(dir.path());
    let mut tensors = diffusers_unet();
    tensors.remove("conv_out.weight");
    tensors.insert("conv_extra.weight".into(), fill(0, &[1]));
    tensors.insert("conv_in.weight".into(), fill(0, &[4, 5, 3, 3]));
    save(unet.join("diffusion_pytorch_model.safetensors"), &tensors);
    let checkpoint = Checkpoint::open(dir.path(), Component::Unet).unwrap();
    match checkpoint.check(&unet_params()).unwrap_err() {
        Error::Weights { missing, unknown, misshaped, .. } => {
            assert_eq!(missing, ["conv_out.weight"]);
            assert_eq!(unknown, ["conv_extra.weight"]);
            assert_eq!(misshaped, ["conv_in.weight: found [4, 5, 3, 3], expected [4, 4, 3, 3]"]);
        }
        other => panic!("{other}"),
    }
    let get = |name: &str, dims: &[usize]| checkpoint.get(name, dims, WeightLayout::Conv);
    assert!(matches!(get("unet.conv_in.weight", &[4, 3, 3, 4]), Err(Error::Weights { .. })));
    assert!(get("unet.conv_out.weight", &[4, 3, 3, 4]).unwrap().is_none());
    assert!(get("vae.conv_in.weight", &[4, 3, 3, 4]).unwrap().is_none());
}

#[test]
fn weights_come_in_runtime_layout_and_are_shared() {
    let dir = tempfile::tempdir().unwrap();
    let unet = unet_folder(dir.path());
    save(unet.join("diffusion_pytorch_model.safetensors"), &diffusers_unet());
    let model = Model::open(dir.path(), &[Component::Unet]).unwrap();
    let get = || {
        model.get("unet.down_blocks.1.resnets.0.conv1.weight", &[8, 3, 3, 4], WeightLayout::Conv)
    };
    let first = get().unwrap().unwrap();
    let stored = model
        .part(Component::Unet)
        .unwrap()
        .tensor("down_blocks.1.resnets.0.conv1.weight")
        .unwrap();
    for (o, i, h, w) in [(0, 0, 0, 0), (7, 3, 2, 1), (3, 1, 0, 2)] {
        assert_eq!(
            first[((o * 3 + h) * 3 + w) * 4 + i],
            stored.data[((o * 4 + i) * 3 + h) * 3 + w]
        );
    }
    assert!(std::ptr::eq(first.as_ptr(), get().unwrap().unwrap().as_ptr()));
}

#[test]
fn paths_that_are_no_model_are_typed_errors_that_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let open = |p: &Path| Checkpoint::open(p, Component::Unet).unwrap_err();
    for (error, needle) in [
        (open(&dir.path().join("gone")), "gone"),
        (open(dir.path()), "unet/config.json"),
        (
            {
                unet_folder(dir.path());
                open(dir.path())
            },
            "0 .safetensors files",
        ),
        (
            {
                fs::write(dir.path().join("x.ckpt"), b"PK\x03\x04 not a model").unwrap();
                open(&dir.path().join("x.ckpt"))
            },
            "x.ckpt",
        ),
    ] {
        assert!(matches!(error, Error::File { .. } | Error::Format { .. }), "{error}");
        assert!(error.to_string().contains(needle), "{error}");
    }
}
