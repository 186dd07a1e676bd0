//! Configurations of single-file checkpoints, read off the shapes of their tensors.

use super::{family::Family, store::Slots};
use serde_json::{Value, json};

fn dim(slots: &Slots, name: &str, axis: usize) -> usize {
    slots.get(name).and_then(|s| s.dims.get(axis)).copied().unwrap_or(0)
}

/// How many `prefix{i}.` there are, counted from 0.
fn count(slots: &Slots, prefix: &str) -> usize {
    let has = |i: &usize| {
        let head = format!("{prefix}{i}.");
        slots.range(head.clone()..).next().is_some_and(|(n, _)| n.starts_with(&head))
    };
    (0..).take_while(has).count()
}

/// Configuration of a U-Net with `layers` resnets a block, as diffusers writes it. The head counts
/// follow the family: 8 heads in SD 1, heads of 64 in SD 2 and SDXL.
pub fn unet(slots: &Slots, layers: usize, family: Family) -> Value {
    let blocks = count(slots, "down_blocks.");
    let widths: Vec<usize> = (0..blocks)
        .map(|i| dim(slots, &format!("down_blocks.{i}.resnets.0.conv1.weight"), 0))
        .collect();
    let depths: Vec<usize> = (0..blocks)
        .map(|i| count(slots, &format!("down_blocks.{i}.attentions.0.transformer_blocks.")))
        .collect();
    let kinds = |side: &str, depths: &mut dyn Iterator<Item = &usize>| -> Vec<String> {
        let cross = |d: &usize| if *d > 0 { "CrossAttn" } else { "" };
        depths.map(|d| format!("{}{side}Block2D", cross(d))).collect()
    };
    let down = kinds("Down", &mut depths.iter());
    let up = kinds("Up", &mut depths.iter().rev());
    let attention: Vec<&String> =
        slots.keys().filter(|n| n.ends_with("attn2.to_k.weight")).collect();
    let context = attention.first().map_or(0, |n| dim(slots, n, 1));
    let linear = slots.iter().any(|(n, s)| n.ends_with("proj_in.weight") && s.dims.len() == 2);
    let heads = match family {
        Family::Sd15 => json!(8),
        _ => json!(widths.iter().map(|w| (w / 64).max(1)).collect::<Vec<_>>()),
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel", "act_fn": "silu",
        "in_channels": dim(slots, "conv_in.weight", 1),
        "out_channels": dim(slots, "conv_out.weight", 0),
        "block_out_channels": widths, "layers_per_block": layers,
        "down_block_types": down, "mid_block_type": "UNetMidBlock2DCrossAttn", "up_block_types": up,
        "transformer_layers_per_block": depths.iter().map(|d| (*d).max(1)).collect::<Vec<_>>(),
        "attention_head_dim": heads, "cross_attention_dim": context,
        "use_linear_projection": linear,
        "norm_num_groups": 32, "norm_eps": 1e-5, "flip_sin_to_cos": true, "freq_shift": 0,
        "downsample_padding": 1, "mid_block_scale_factor": 1, "center_input_sample": false,
        "sample_size": if family == Family::Sdxl { 128 } else { 64 },
    });
    let added = dim(slots, "add_embedding.linear_1.weight", 1);
    if added > 0 {
        config["addition_embed_type"] = json!("text_time");
        config["addition_time_embed_dim"] = json!(256);
        config["projection_class_embeddings_input_dim"] = json!(added);
    }
    config
}

/// Configuration of a VAE, as diffusers writes it.
pub fn vae(slots: &Slots, levels: usize, family: Family) -> Value {
    let widths: Vec<usize> = (0..levels)
        .map(|i| dim(slots, &format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0))
        .collect();
    let sdxl = family == Family::Sdxl;
    json!({
        "_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": 32,
        "in_channels": dim(slots, "encoder.conv_in.weight", 1),
        "out_channels": dim(slots, "decoder.conv_out.weight", 0),
        "latent_channels": dim(slots, "post_quant_conv.weight", 0),
        "block_out_channels": widths,
        "layers_per_block": count(slots, "encoder.down_blocks.0.resnets."),
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "sample_size": if sdxl { 1024 } else { 512 }, "force_upcast": sdxl,
        "scaling_factor": if sdxl { 0.13025 } else { 0.18215 },
    })
}

/// Configuration of a CLIP text encoder, as transformers writes it; heads are 64 wide in all of
/// them.
pub fn text(slots: &Slots, act: &str) -> Value {
    let token = "text_model.embeddings.token_embedding.weight";
    let width = dim(slots, token, 1);
    let projection = dim(slots, "text_projection.weight", 0);
    let class = if projection > 0 { "CLIPTextModelWithProjection" } else { "CLIPTextModel" };
    json!({
        "architectures": [class],
        "model_type": "clip_text_model", "hidden_act": act, "layer_norm_eps": 1e-5,
        "hidden_size": width, "num_attention_heads": (width / 64).max(1),
        "num_hidden_layers": count(slots, "text_model.encoder.layers."),
        "intermediate_size": dim(slots, "text_model.encoder.layers.0.mlp.fc1.weight", 0),
        "max_position_embeddings": dim(slots, "text_model.embeddings.position_embedding.weight", 0),
        "vocab_size": dim(slots, token, 0),
        "projection_dim": if projection > 0 { projection } else { width },
        "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    })
}
