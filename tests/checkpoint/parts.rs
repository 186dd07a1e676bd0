//! VAEs, text encoders and the embedded base.

use super::{Tensors, fill, param, save, save_json};
use selvedge::{
    models::{
        base::Base,
        checkpoint::{Checkpoint, Component, Model, Target, model_json},
        noise::Prediction,
    },
    plan::{ParamInfo, WeightLayout, WeightSource},
    tensor::{
        DType,
        safetensors::{Dtype, Raw},
        write_safetensors,
    },
};
use serde_json::json;

/// Two levels, one resnet; original name, diffusers name, dims in the original file.
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

/// The VAE as a single file has it.
pub fn original_vae() -> Tensors {
    let all = vae_names().into_iter().enumerate();
    all.map(|(i, (n, _, d))| (format!("first_stage_model.{n}"), fill(i, &d))).collect()
}

fn vae_params(half: &str) -> Vec<ParamInfo> {
    let one = |(_, name, d): (&str, &str, Vec<usize>)| {
        let full = format!("vae.{name}");
        match d[..] {
            [o, i, 1, 1] if name.contains("attentions") => {
                param(&full, &[o, i], WeightLayout::Dense)
            }
            [o, i, 1, 1] => param(&full, &[o, i], WeightLayout::Conv1x1),
            [o, i, h, w] => param(&full, &[o, h, w, i], WeightLayout::Conv),
            _ => param(&full, &d, WeightLayout::Dense),
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
    save(&single, &original_vae());
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
pub fn open_clip(prefix: &str, layers: usize) -> Tensors {
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
        all.iter().map(|(n, d)| param(&name(n), d, WeightLayout::Dense)).collect();
    if projected {
        params.push(param(
            &format!("{component}.text_projection.weight"),
            &[3, 4],
            WeightLayout::Dense,
        ));
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
fn stored_weights_are_the_files_bits_in_runtime_order() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<f32> = (0..48).map(|i| i as f32 - 20.0).collect();
    let mut tensors = Tensors::new();
    tensors.insert("kernel.weight".into(), Raw::rounded(&[3, 4, 2, 2], &data, Dtype::F16));
    tensors.insert("linear.weight".into(), Raw::rounded(&[6, 8], &data, Dtype::BF16));
    save(dir.path().join("unet/model.safetensors"), &tensors);
    save_json(dir.path().join("unet/config.json"), json!({}));
    let checkpoint = Checkpoint::open(dir.path(), Component::Unet).unwrap();
    let stored = |name: &str, dims: &[usize], layout, dtype| {
        let found = checkpoint.stored(&format!("unet.{name}.weight"), dims, layout, dtype);
        found.unwrap().map(|b| (*b).as_ref().to_vec())
    };
    let dims = [3, 2, 2, 4];
    let runtime = WeightLayout::Conv.to_runtime(&dims, data.clone());
    let want = Raw::rounded(&dims, &runtime, Dtype::F16).bytes;
    assert_eq!(stored("kernel", &dims, WeightLayout::Conv, DType::F16), Some(want));
    let want = tensors["linear.weight"].bytes.clone();
    assert_eq!(stored("linear", &[6, 8], WeightLayout::Dense, DType::Bf16), Some(want));
    for other in [DType::F32, DType::Bf16] {
        assert_eq!(stored("kernel", &dims, WeightLayout::Conv, other), None, "{other}");
    }
    assert_eq!(stored("absent", &[6, 8], WeightLayout::Dense, DType::F16), None);
    let short = checkpoint.stored("unet.linear.weight", &[6, 7], WeightLayout::Dense, DType::Bf16);
    assert!(short.is_err(), "another shape");
}

#[test]
fn a_single_file_says_what_its_unet_predicts_where_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let head = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
    let target = |extra: &[&str], context: usize, pairs: &[(&str, &str)]| {
        let mut tensors: Tensors = extra.iter().map(|n| (n.to_string(), fill(0, &[1]))).collect();
        tensors.insert(head.into(), fill(1, &[4, context]));
        let pairs = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        write_safetensors(&path, tensors.iter().map(|(n, r)| (n.as_str(), r)), &pairs).unwrap();
        let t = Target::of(&path, Some(context)).unwrap();
        (t.prediction, t.zero_snr, t.known)
    };
    let (noise, velocity) = (Prediction::Epsilon, Prediction::Velocity);
    assert_eq!(target(&[], 768, &[]), (noise, false, true), "SD 1");
    assert_eq!(target(&["label_emb.0.0.weight"], 2048, &[]), (noise, false, true), "SDXL");
    assert_eq!(target(&["v_pred"], 768, &[]), (velocity, false, true));
    assert_eq!(target(&["v_pred", "ztsnr"], 768, &[]), (velocity, true, true));
    assert_eq!(target(&[], 1024, &[]), (noise, false, false), "SD 2 does not say");
    for pair in [
        ("modelspec.prediction_type", "v"),
        ("modelspec.architecture", "stable-diffusion-v2-768-v"),
    ] {
        assert_eq!(target(&[], 1024, &[pair]), (velocity, false, true), "{pair:?}");
    }
    for pair in [
        ("modelspec.prediction_type", "epsilon"),
        ("modelspec.architecture", "stable-diffusion-v2-512"),
    ] {
        assert_eq!(target(&[], 1024, &[pair]), (noise, false, true), "{pair:?}");
    }
}

#[test]
fn a_scheduler_file_with_pythons_infinity_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let inner = "scheduler/scheduler_config.json";
    std::fs::create_dir(dir.path().join("scheduler")).unwrap();
    let text = r#"{"lambda_min_clipped": -Infinity, "steps_offset": 1}"#;
    std::fs::write(dir.path().join(inner), text).unwrap();
    let json = model_json(dir.path(), inner).unwrap().unwrap();
    assert_eq!(
        (json["lambda_min_clipped"].is_null(), json["steps_offset"].as_u64()),
        (true, Some(1))
    );
}

#[test]
fn the_autoencoder_is_stored_where_its_activations_fit() {
    let base = |upcast: bool, dtype| {
        let mut base = Base::open("nano").unwrap().stored_as(dtype);
        base.vae.force_upcast = upcast;
        base
    };
    for (upcast, dtype, want) in [
        (true, DType::F32, DType::F32),
        (true, DType::Bf16, DType::F32),
        (true, DType::F16, DType::F32),
        (false, DType::Bf16, DType::Bf16),
        (false, DType::F16, DType::F32),
    ] {
        assert_eq!(base(upcast, dtype).vae_types().products(), want, "{upcast} {dtype}");
    }
    let e = base(true, DType::F16).vae_stored_as(Some(DType::F16)).unwrap_err().to_string();
    assert!(e.contains("sdxl-vae-fp16-fix") && e.contains("force_upcast"), "{e}");
    let fixed = base(false, DType::F16).vae_stored_as(Some(DType::F16)).unwrap();
    assert_eq!(fixed.vae_types().products(), DType::F16);
}

#[test]
fn guidance_and_target_follow_the_base_and_can_be_changed() {
    let mut base = Base::open("nano").unwrap();
    assert_eq!(base.guidance(), 5.0);
    base.unet.text_time = None;
    assert_eq!(base.guidance(), 7.5);
    assert_eq!(base.noise().unwrap().prediction, Prediction::Epsilon);
    let base = base.predicting(Some(Prediction::Velocity));
    assert_eq!(base.noise().unwrap().prediction, Prediction::Velocity);
}
