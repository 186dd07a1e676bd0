//! Checkpoints in every layout give the same parameters under the same names.
#![allow(clippy::unwrap_used)]

use selvedge::{
    error::Error,
    models::checkpoint::{Checkpoint, Component, Model, model_json},
    plan::{Layout, ParamInfo, WeightSource},
    tensor::{
        safetensors::{Dtype, Raw},
        write_safetensors,
    },
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

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

fn param(name: &str, dims: &[usize], layout: Layout) -> ParamInfo {
    ParamInfo { name: name.into(), dims: dims.to_vec(), layout, trainable: false }
}

/// The parameters of `unet_names` as a model would record them.
fn unet_params() -> Vec<ParamInfo> {
    let one = |(_, name, d): (&str, &str, Vec<usize>)| match d[..] {
        [o, i, 1, 1] => param(&format!("unet.{name}"), &[o, i], Layout::Conv1x1),
        [o, i, h, w] => param(&format!("unet.{name}"), &[o, h, w, i], Layout::Conv),
        _ => param(&format!("unet.{name}"), &d, Layout::Dense),
    };
    unet_names().into_iter().map(one).collect()
}

fn diffusers_unet() -> Tensors {
    let all = unet_names().into_iter().enumerate();
    all.map(|(i, (_, name, dims))| (name.to_string(), fill(i, &dims))).collect()
}

fn original_unet() -> Tensors {
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
    let get = |name: &str, dims: &[usize]| checkpoint.get(name, dims, Layout::Conv);
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
    let get =
        || model.get("unet.down_blocks.1.resnets.0.conv1.weight", &[8, 3, 3, 4], Layout::Conv);
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
    assert!(std::sync::Arc::ptr_eq(&first, &get().unwrap().unwrap()));
}

/// One level, one resnet; original name, diffusers name, dims in the original file.
fn vae_names() -> Vec<(&'static str, &'static str, Vec<usize>)> {
    vec![
        ("encoder.conv_in.weight", "encoder.conv_in.weight", vec![4, 3, 3, 3]),
        (
            "encoder.down.0.block.0.conv1.weight",
            "encoder.down_blocks.0.resnets.0.conv1.weight",
            vec![4, 4, 3, 3],
        ),
        (
            "encoder.down.1.block.0.conv1.weight",
            "encoder.down_blocks.1.resnets.0.conv1.weight",
            vec![8, 4, 3, 3],
        ),
        (
            "encoder.mid.attn_1.q.weight",
            "encoder.mid_block.attentions.0.to_q.weight",
            vec![8, 8, 1, 1],
        ),
        (
            "encoder.mid.attn_1.k.weight",
            "encoder.mid_block.attentions.0.to_k.weight",
            vec![8, 8, 1, 1],
        ),
        (
            "encoder.mid.attn_1.v.weight",
            "encoder.mid_block.attentions.0.to_v.weight",
            vec![8, 8, 1, 1],
        ),
        (
            "encoder.mid.attn_1.proj_out.weight",
            "encoder.mid_block.attentions.0.to_out.0.weight",
            vec![8, 8, 1, 1],
        ),
        (
            "encoder.mid.attn_1.norm.weight",
            "encoder.mid_block.attentions.0.group_norm.weight",
            vec![8],
        ),
        (
            "decoder.up.0.block.0.conv1.weight",
            "decoder.up_blocks.1.resnets.0.conv1.weight",
            vec![4, 8, 3, 3],
        ),
        (
            "decoder.up.1.upsample.conv.weight",
            "decoder.up_blocks.0.upsamplers.0.conv.weight",
            vec![8, 8, 3, 3],
        ),
        ("decoder.conv_out.weight", "decoder.conv_out.weight", vec![3, 4, 3, 3]),
        ("post_quant_conv.weight", "post_quant_conv.weight", vec![4, 4, 1, 1]),
    ]
}

fn vae_params(half: &str) -> Vec<ParamInfo> {
    let one = |(_, name, d): (&str, &str, Vec<usize>)| {
        let full = format!("vae.{name}");
        match d[..] {
            [o, i, 1, 1] if name.contains("attentions") => param(&full, &[o, i], Layout::Dense),
            [o, i, 1, 1] => param(&full, &[o, i], Layout::Conv1x1),
            [o, i, h, w] => param(&full, &[o, h, w, i], Layout::Conv),
            _ => param(&full, &d, Layout::Dense),
        }
    };
    vae_names()
        .into_iter()
        .filter(|(_, n, _)| half.is_empty() || n.starts_with(half))
        .map(one)
        .collect()
}

#[test]
fn vae_attention_is_found_under_original_old_and_new_names() {
    let dir = tempfile::tempdir().unwrap();
    let single = dir.path().join("single.safetensors");
    let original: Tensors = vae_names()
        .into_iter()
        .enumerate()
        .map(|(i, (n, _, d))| (format!("first_stage_model.{n}"), fill(i, &d)))
        .collect();
    save(&single, &original);
    save_json(dir.path().join("vae/config.json"), json!({"_class_name": "AutoencoderKL"}));
    let old = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let old_names: Tensors = vae_names()
        .into_iter()
        .enumerate()
        .map(|(i, (_, n, d))| {
            let name = old.iter().fold(n.to_string(), |n, (new, old)| n.replace(new, old));
            let dims = if n.contains("attentions") {
                d.into_iter().filter(|x| *x > 1).collect()
            } else {
                d
            };
            (name, fill(i, &dims))
        })
        .collect();
    assert!(old_names.contains_key("encoder.mid_block.attentions.0.proj_attn.weight"));
    save(dir.path().join("vae/diffusion_pytorch_model.safetensors"), &old_names);
    let a = Checkpoint::open(&single, Component::Vae).unwrap();
    let b = Checkpoint::open(dir.path(), Component::Vae).unwrap();
    for params in [
        vae_params(""),
        vae_params("encoder"),
        [vae_params("decoder"), vae_params("post_quant")].concat(),
    ] {
        a.check(&params).unwrap();
        b.check(&params).unwrap();
    }
    for p in vae_params("") {
        let get = |c: &Checkpoint| c.get(&p.name, &p.dims, p.layout).unwrap().unwrap();
        assert_eq!(get(&a), get(&b), "{}", p.name);
    }
    assert_eq!(a.config()["block_out_channels"], json!([4, 8]));
    assert_eq!(a.config()["latent_channels"], 4);
    let error = Checkpoint::open(dir.path().join("vae"), Component::Unet).unwrap_err();
    assert!(error.to_string().contains("AutoencoderKL"), "{error}");
}

/// An OpenCLIP text tower of `layers` layers, width 4.
fn open_clip(prefix: &str, layers: usize) -> Tensors {
    let mut all = Tensors::new();
    let mut put = |name: String, dims: &[usize]| {
        let seed = all.len();
        all.insert(format!("{prefix}{name}"), fill(seed, dims));
    };
    put("token_embedding.weight".into(), &[10, 4]);
    put("positional_embedding".into(), &[5, 4]);
    put("ln_final.weight".into(), &[4]);
    put("text_projection".into(), &[4, 3]);
    put("logit_scale".into(), &[]);
    for i in 0..layers {
        put(format!("transformer.resblocks.{i}.attn.in_proj_weight"), &[12, 4]);
        put(format!("transformer.resblocks.{i}.attn.in_proj_bias"), &[12]);
        put(format!("transformer.resblocks.{i}.attn.out_proj.weight"), &[4, 4]);
        put(format!("transformer.resblocks.{i}.ln_1.weight"), &[4]);
        put(format!("transformer.resblocks.{i}.mlp.c_fc.weight"), &[8, 4]);
    }
    all
}

fn text_params(component: &str, layers: usize, projected: bool) -> Vec<ParamInfo> {
    let mut all = vec![
        ("embeddings.token_embedding.weight".to_string(), vec![10, 4]),
        ("embeddings.position_embedding.weight".into(), vec![5, 4]),
        ("final_layer_norm.weight".into(), vec![4]),
    ];
    for i in 0..layers {
        for p in ["q", "k", "v"] {
            all.push((format!("encoder.layers.{i}.self_attn.{p}_proj.weight"), vec![4, 4]));
            all.push((format!("encoder.layers.{i}.self_attn.{p}_proj.bias"), vec![4]));
        }
        all.push((format!("encoder.layers.{i}.self_attn.out_proj.weight"), vec![4, 4]));
        all.push((format!("encoder.layers.{i}.layer_norm1.weight"), vec![4]));
        all.push((format!("encoder.layers.{i}.mlp.fc1.weight"), vec![8, 4]));
    }
    let name = |n: &str| format!("{component}.text_model.{n}");
    let mut params: Vec<ParamInfo> =
        all.iter().map(|(n, d)| param(&name(n), d, Layout::Dense)).collect();
    if projected {
        params.push(param(&format!("{component}.text_projection.weight"), &[3, 4], Layout::Dense));
    }
    params
}

#[test]
fn an_open_clip_tower_is_split_and_its_projection_transposed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("xl.safetensors");
    let stored = open_clip("conditioner.embedders.1.model.", 2);
    save(&file, &stored);
    let text = Checkpoint::open(&file, Component::TextEncoder2).unwrap();
    text.check(&text_params("text_encoder_2", 2, true)).unwrap();
    let whole = stored["conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_weight"]
        .to_tensor()
        .unwrap();
    for (i, p) in ["q", "k", "v"].iter().enumerate() {
        let name = format!("text_model.encoder.layers.1.self_attn.{p}_proj.weight");
        assert_eq!(text.tensor(&name).unwrap().data, whole.data[i * 16..(i + 1) * 16]);
    }
    let p = stored["conditioner.embedders.1.model.text_projection"].to_tensor().unwrap();
    let w = text.tensor("text_projection.weight").unwrap();
    assert_eq!((w.dims.as_slice(), w.data[2 * 4 + 1]), (&[3usize, 4][..], p.data[3 + 2]));
    let config = text.config();
    assert_eq!((&config["num_hidden_layers"], &config["hidden_act"]), (&json!(2), &json!("gelu")));
    assert_eq!(config["projection_dim"], 3);
}

#[test]
fn the_last_layer_of_sd2s_text_encoder_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sd2.safetensors");
    save(&file, &open_clip("cond_stage_model.model.", 3));
    let text = Checkpoint::open(&file, Component::TextEncoder).unwrap();
    assert_eq!(text.config()["num_hidden_layers"], 2);
    text.check(&text_params("text_encoder", 2, false)).unwrap();
}

#[test]
fn text_encoder_names_are_found_with_and_without_their_prefix() {
    let dir = tempfile::tempdir().unwrap();
    save_json(
        dir.path().join("config.json"),
        json!({"architectures": ["CLIPTextModel"], "num_hidden_layers": 2}),
    );
    for prefix in ["", "text_model."] {
        let mut tensors: Tensors = text_params("text_encoder", 2, false)
            .iter()
            .enumerate()
            .map(|(i, p)| (p.name.replace("text_encoder.text_model.", prefix), fill(i, &p.dims)))
            .collect();
        tensors.insert(format!("{prefix}embeddings.position_ids"), Raw::i64(&[1, 2], &[0, 1]));
        tensors.insert("logit_scale".into(), fill(0, &[]));
        save(dir.path().join("model.safetensors"), &tensors);
        let text = Checkpoint::open(dir.path(), Component::TextEncoder).unwrap();
        text.check(&text_params("text_encoder", 2, false)).unwrap();
        text.check(&text_params("text_encoder", 1, false)).unwrap();
        assert!(text.check(&text_params("text_encoder", 3, false)).is_err());
    }
}

#[test]
fn the_embedded_base_opens_and_is_of_the_sdxl_family() {
    use Component as C;
    let model = Model::open("nano", &[C::Unet, C::Vae, C::TextEncoder, C::TextEncoder2]).unwrap();
    let unet = model.part(C::Unet).unwrap();
    assert_eq!(unet.config()["addition_embed_type"], "text_time");
    assert_eq!(unet.tensor("conv_in.weight").unwrap().dims[1..], [4, 3, 3]);
    for part in &model.parts {
        assert!(part.shapes().count() > 30, "{:?}", part.component());
    }
    assert!(model_json("nano", "scheduler/scheduler_config.json").unwrap().is_some());
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
