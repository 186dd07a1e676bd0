//! From the names of original checkpoints to those of diffusers and transformers.

use super::store::Slot;
use crate::lora::renamed;

/// `encoder.down.2.block.1.conv1.weight` of a VAE with `levels` levels as
/// `encoder.down_blocks.2.resnets.1.conv1.weight`; the decoder counts its levels backwards.
pub fn vae(name: &str, levels: usize) -> Option<String> {
    let (side, rest) = match name.split_once('.')? {
        (side @ ("encoder" | "decoder"), rest) => (side, rest),
        ("quant_conv" | "post_quant_conv", _) => return Some(name.to_string()),
        _ => return None,
    };
    let fixed = [
        ("conv_in", "conv_in"),
        ("conv_out", "conv_out"),
        ("norm_out", "conv_norm_out"),
        ("mid.block_1", "mid_block.resnets.0"),
        ("mid.block_2", "mid_block.resnets.1"),
        ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
        ("mid.attn_1.q", "mid_block.attentions.0.to_q"),
        ("mid.attn_1.k", "mid_block.attentions.0.to_k"),
        ("mid.attn_1.v", "mid_block.attentions.0.to_v"),
        ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
    ];
    let inner = renamed(rest, fixed).or_else(|| vae_level(rest, levels))?;
    Some(format!("{side}.{}", inner.replace("nin_shortcut", "conv_shortcut")))
}

fn vae_level(rest: &str, levels: usize) -> Option<String> {
    let (side, rest) = rest.split_once('.')?;
    let (level, rest) = rest.split_once('.')?;
    let level: usize = level.parse().ok()?;
    let (block, sampler) = match side {
        "down" => (level, "downsample.conv"),
        "up" => (levels.checked_sub(level + 1)?, "upsample.conv"),
        _ => return None,
    };
    let to = format!("{side}samplers.0.conv");
    let tail = renamed(rest, [("block", "resnets"), (sampler, to.as_str())])?;
    Some(format!("{side}_blocks.{block}.{tail}"))
}

/// Attention names of older diffusers VAE files.
pub fn old_vae_attention(name: &str) -> String {
    let Some((head, tail)) = name.split_once(".mid_block.attentions.0.") else {
        return name.to_string();
    };
    let table = [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];
    let tail = renamed(tail, table).unwrap_or_else(|| tail.to_string());
    format!("{head}.mid_block.attentions.0.{tail}")
}

/// A text encoder's name with the `text_model.` prefix that some files leave out.
pub fn text(name: &str) -> String {
    let inside = ["embeddings.", "encoder.", "final_layer_norm."];
    match inside.iter().any(|p| name.starts_with(p)) {
        true => format!("text_model.{name}"),
        false => name.to_string(),
    }
}

/// Layers of an OpenCLIP text transformer, from its names.
pub fn open_clip_layers<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names
        .filter_map(|n| n.strip_prefix("transformer.resblocks.")?.split_once('.')?.0.parse().ok())
        .fold(0, |most, n: usize| most.max(n + 1))
}

/// One OpenCLIP text parameter as transformers parameters: the stacked input projection becomes
/// three row slices, the text projection `x @ P` a transposed linear weight. `None` outside the
/// grammar.
pub fn open_clip(name: &str, slot: &Slot) -> Option<Vec<(String, Slot)>> {
    let fixed = [
        ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("ln_final", "text_model.final_layer_norm"),
    ];
    if let Some(to) = renamed(name, fixed) {
        return Some(vec![(to, slot.clone())]);
    }
    if name == "text_projection" {
        return Some(vec![("text_projection.weight".into(), slot.transposed()?)]);
    }
    let (layer, tail) = name.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let at = format!("text_model.encoder.layers.{}", layer.parse::<usize>().ok()?);
    if let Some(kind) = tail.strip_prefix("attn.in_proj_") {
        let parts = ["q", "k", "v"]
            .iter()
            .enumerate()
            .map(|(i, p)| Some((format!("{at}.self_attn.{p}_proj.{kind}"), slot.share(i, 3)?)));
        return parts.collect();
    }
    let table = [
        ("attn.out_proj", "self_attn.out_proj"),
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ];
    Some(vec![(format!("{at}.{}", renamed(tail, table)?), slot.clone())])
}

/// Whether a name that no model asks for may be there all the same.
pub fn harmless(component: super::Component, name: &str) -> bool {
    use super::Component as C;
    let starts = |list: &[&str]| list.iter().any(|p| name.starts_with(p));
    match component {
        C::Vae => starts(&["loss.", "model_ema."]),
        C::TextEncoder | C::TextEncoder2 => {
            name.ends_with("position_ids")
                || starts(&["logit_scale", "vision_model.", "visual.", "visual_projection."])
                || starts(&["text_projection", "attn_mask"])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vae_decoder_counts_backwards() {
        for (from, to) in [
            (
                "encoder.down.1.block.0.nin_shortcut.weight",
                "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
            ),
            (
                "encoder.down.2.downsample.conv.bias",
                "encoder.down_blocks.2.downsamplers.0.conv.bias",
            ),
            ("decoder.up.3.block.2.norm1.weight", "decoder.up_blocks.0.resnets.2.norm1.weight"),
            ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
            ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
            ("encoder.norm_out.weight", "encoder.conv_norm_out.weight"),
            ("post_quant_conv.bias", "post_quant_conv.bias"),
        ] {
            assert_eq!(vae(from, 4).as_deref(), Some(to));
        }
        assert_eq!(vae("decoder.up.4.block.0.conv1.weight", 4), None);
        assert_eq!(vae("encoder.mid.block_3.conv1.weight", 4), None);
    }

    #[test]
    fn old_vae_attention_names_become_the_new_ones() {
        let old = "decoder.mid_block.attentions.0.proj_attn.bias";
        assert_eq!(old_vae_attention(old), "decoder.mid_block.attentions.0.to_out.0.bias");
        let same = "decoder.mid_block.attentions.0.group_norm.bias";
        assert_eq!(old_vae_attention(same), same);
    }
}
