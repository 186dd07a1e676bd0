//! Names of published towers, format by format, as tables that are read in both directions.

use super::store::Slot;
use crate::lora::renamed;

type Pairs = &'static [(&'static str, &'static str)];

/// How one publisher names the parameters of one tower.
#[derive(Debug)]
pub struct Format {
    /// What stands before a layer's number; the first is what is published, the others are found too.
    pub blocks: &'static [&'static str],
    /// What stands there in the model.
    pub block: &'static str,
    /// Modules outside the layers: published, in the model.
    pub fixed: Pairs,
    /// Modules of a layer.
    pub inner: Pairs,
    /// Stacked rows of a layer, and the modules they are.
    pub stacked: &'static [(&'static str, &'static [&'static str])],
    /// Names in the model of matrices that are published `[in, out]`.
    pub transposed: &'static [&'static str],
    /// Beginnings of names that the published checkpoint has and the model does not.
    pub unused: &'static [&'static str],
}

impl Format {
    /// The parameters of the model that the published tensor `name` holds; `None` outside the grammar.
    pub fn canonical(&self, name: &str, slot: &Slot) -> Option<Vec<(String, Slot)>> {
        if let Some(to) = renamed(name, self.fixed.iter().copied()) {
            let turned = self.transposed.contains(&to.as_str());
            let slot = if turned { slot.transposed()? } else { slot.clone() };
            return Some(vec![(to, slot)]);
        }
        let rest = self.blocks.iter().find_map(|b| name.strip_prefix(b))?;
        let (layer, tail) = rest.split_once('.')?;
        let at = format!("{}{}.", self.block, layer.parse::<usize>().ok()?);
        for (stack, modules) in self.stacked {
            if let Some(kind) = tail.strip_prefix(stack) {
                let share = |(i, m): (usize, &&str)| {
                    Some((format!("{at}{m}{kind}"), slot.share(i, modules.len())?))
                };
                return modules.iter().enumerate().map(share).collect();
            }
        }
        Some(vec![(format!("{at}{}", renamed(tail, self.inner.iter().copied())?), slot.clone())])
    }

    /// The name under which the model's parameter `name` is published.
    pub fn published(&self, name: &str) -> Option<String> {
        let back = |pairs: Pairs| pairs.iter().map(|(from, to)| (*to, *from));
        if let Some(rest) = name.strip_prefix(self.block)
            && let Some((layer, tail)) = rest.split_once('.')
        {
            let stack = self.stacked.iter().find_map(|(stack, modules)| {
                let kind = modules.iter().find_map(|m| tail.strip_prefix(m))?;
                Some(format!("{stack}{kind}"))
            });
            let tail = stack.or_else(|| renamed(tail, back(self.inner)))?;
            return Some(format!("{}{layer}.{tail}", self.blocks.first()?));
        }
        renamed(name, back(self.fixed))
    }

    /// Whether the published checkpoint may hold `name` without the model asking for it.
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with("position_ids") || self.unused.iter().any(|u| name.starts_with(u))
    }
}

const QKV: &[&str] = &["attn.q.", "attn.k.", "attn.v."];

/// Attention of transformers' vision towers; names of 4.x, which are those on disk, and of 5.x.
macro_rules! with_attention {
    ($($pair:expr,)*) => {
        &[
            $($pair,)*
            ("attention.attention.query", "attn.q"),
            ("attention.attention.key", "attn.k"),
            ("attention.attention.value", "attn.v"),
            ("attention.output.dense", "attn.proj"),
            ("attention.q_proj", "attn.q"),
            ("attention.k_proj", "attn.k"),
            ("attention.v_proj", "attn.v"),
            ("attention.o_proj", "attn.proj"),
        ]
    };
}

/// transformers' `Dinov2Model` and `Dinov2WithRegistersModel`.
pub static DINOV2: Format = DINOV2_FORMAT;

const DINOV2_FORMAT: Format = Format {
    blocks: &["encoder.layer."],
    block: "blocks.",
    fixed: &[
        ("embeddings.cls_token", "cls_token"),
        ("embeddings.position_embeddings", "pos_embed"),
        ("embeddings.register_tokens", "register_tokens"),
        ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
        ("layernorm", "norm"),
        ("pooler.dense", "pooler.dense"),
    ],
    inner: with_attention![
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("layer_scale1.lambda1", "ls1.gamma"),
        ("layer_scale2.lambda1", "ls2.gamma"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("mlp.weights_out", "mlp.w3"),
        ("mlp.gate_proj", "mlp.w1"),
        ("mlp.up_proj", "mlp.w2"),
        ("mlp.down_proj", "mlp.w3"),
    ],
    stacked: &[("mlp.weights_in.", &["mlp.w1.", "mlp.w2."])],
    transposed: &[],
    unused: &["embeddings.mask_token", "classifier."],
};

/// transformers' `ViTModel`.
pub static VIT: Format = Format {
    blocks: &["encoder.layer.", "layers."],
    inner: with_attention![
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("intermediate.dense", "mlp.fc1"),
        ("output.dense", "mlp.fc2"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    stacked: &[],
    ..DINOV2_FORMAT
};

/// The names of DINO and DINOv2, also those of DreamSim's files and of BLIP's picture tower.
pub static DINO: Format = Format {
    blocks: &["blocks."],
    block: "blocks.",
    fixed: &[
        ("cls_token", "cls_token"),
        ("pos_embed", "pos_embed"),
        ("register_tokens", "register_tokens"),
        ("patch_embed.proj", "patch_embed.proj"),
        ("pos_drop", "norm_pre"),
        ("norm", "norm"),
        ("proj", "proj.weight"),
    ],
    inner: &[
        ("norm1", "norm1"),
        ("norm2", "norm2"),
        ("attn.proj", "attn.proj"),
        ("ls1.gamma", "ls1.gamma"),
        ("ls2.gamma", "ls2.gamma"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
        ("mlp.w3", "mlp.w3"),
    ],
    stacked: &[("attn.qkv.", QKV), ("mlp.w12.", &["mlp.w1.", "mlp.w2."])],
    transposed: &["proj.weight"],
    unused: &["mask_token", "head."],
};

/// transformers' CLIP image tower.
pub static CLIP_IMAGE: Format = CLIP_IMAGE_FORMAT;

const CLIP_IMAGE_FORMAT: Format = Format {
    blocks: &["vision_model.encoder.layers.", "encoder.layers."],
    block: "blocks.",
    fixed: &[
        ("vision_model.embeddings.class_embedding", "cls_token"),
        ("vision_model.embeddings.position_embedding.weight", "pos_embed"),
        ("vision_model.embeddings.patch_embedding", "patch_embed.proj"),
        ("vision_model.pre_layrnorm", "norm_pre"),
        ("vision_model.post_layernorm", "norm"),
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layrnorm", "norm_pre"),
        ("post_layernorm", "norm"),
        ("visual_projection", "proj"),
    ],
    inner: &[
        ("layer_norm1", "norm1"),
        ("layer_norm2", "norm2"),
        ("self_attn.q_proj", "attn.q"),
        ("self_attn.k_proj", "attn.k"),
        ("self_attn.v_proj", "attn.v"),
        ("self_attn.out_proj", "attn.proj"),
        ("mlp.fc1", "mlp.fc1"),
        ("mlp.fc2", "mlp.fc2"),
    ],
    stacked: &[],
    transposed: &[],
    unused: &["text_model.", "text_projection", "logit_scale"],
};

/// transformers' CLIP text tower.
pub static CLIP_TEXT: Format = CLIP_TEXT_FORMAT;

const CLIP_TEXT_FORMAT: Format = Format {
    blocks: &["text_model.encoder.layers.", "encoder.layers."],
    block: "text_model.encoder.layers.",
    fixed: &[
        ("text_model.embeddings", "text_model.embeddings"),
        ("text_model.final_layer_norm", "text_model.final_layer_norm"),
        ("embeddings", "text_model.embeddings"),
        ("final_layer_norm", "text_model.final_layer_norm"),
        ("text_projection", "text_projection"),
    ],
    inner: &[
        ("layer_norm1", "layer_norm1"),
        ("layer_norm2", "layer_norm2"),
        ("self_attn", "self_attn"),
        ("mlp", "mlp"),
    ],
    stacked: &[],
    transposed: &[],
    unused: &["vision_model.", "visual_projection", "logit_scale"],
};

/// transformers' OWLv2: what is below `owlv2.vision_model`.
pub static OWLV2_IMAGE: Format = Format {
    blocks: &["encoder.layers."],
    block: "blocks.",
    fixed: &[
        ("embeddings.class_embedding", "cls_token"),
        ("embeddings.position_embedding.weight", "pos_embed"),
        ("embeddings.patch_embedding", "patch_embed.proj"),
        ("pre_layernorm", "norm_pre"),
        ("post_layernorm", "norm"),
    ],
    unused: &[],
    ..CLIP_IMAGE_FORMAT
};

/// transformers' OWLv2: the text tower and the heads.
pub static OWLV2_TEXT: Format = Format {
    blocks: &["owlv2.text_model.encoder.layers."],
    fixed: &[
        ("owlv2.text_model.embeddings", "text_model.embeddings"),
        ("owlv2.text_model.final_layer_norm", "text_model.final_layer_norm"),
        ("owlv2.text_projection", "text_projection"),
        ("layer_norm", "layer_norm"),
        ("class_head", "class_head"),
        ("box_head", "box_head"),
        ("objectness_head", "objectness_head"),
    ],
    unused: &["owlv2.vision_model.", "owlv2.visual_projection.", "owlv2.logit_scale"],
    ..CLIP_TEXT_FORMAT
};

/// OpenAI's and open_clip's image tower.
pub static OPEN_CLIP_IMAGE: Format = Format {
    blocks: &["visual.transformer.resblocks."],
    block: "blocks.",
    fixed: &[
        ("visual.class_embedding", "cls_token"),
        ("visual.positional_embedding", "pos_embed"),
        ("visual.conv1", "patch_embed.proj"),
        ("visual.ln_pre", "norm_pre"),
        ("visual.ln_post", "norm"),
        ("visual.proj", "proj.weight"),
    ],
    inner: &[
        ("ln_1", "norm1"),
        ("ln_2", "norm2"),
        ("attn.out_proj", "attn.proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ],
    stacked: &[("attn.in_proj_", QKV)],
    transposed: &["proj.weight"],
    unused: &[
        "transformer.",
        "token_embedding.",
        "positional_embedding",
        "ln_final.",
        "text_projection",
        "attn_mask",
        "logit_scale",
        "input_resolution",
        "context_length",
        "vocab_size",
    ],
};

/// OpenAI's and open_clip's text tower.
pub static OPEN_CLIP_TEXT: Format = Format {
    blocks: &["transformer.resblocks."],
    block: "text_model.encoder.layers.",
    fixed: &[
        ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
        ("ln_final", "text_model.final_layer_norm"),
        ("text_projection", "text_projection.weight"),
    ],
    inner: &[
        ("ln_1", "layer_norm1"),
        ("ln_2", "layer_norm2"),
        ("attn.out_proj", "self_attn.out_proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ],
    stacked: &[("attn.in_proj_", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."])],
    transposed: &["text_projection.weight"],
    unused: &[
        "visual.",
        "attn_mask",
        "logit_scale",
        "input_resolution",
        "context_length",
        "vocab_size",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_published_name_is_found_again() {
        let all = [
            &DINOV2,
            &VIT,
            &DINO,
            &CLIP_IMAGE,
            &CLIP_TEXT,
            &OPEN_CLIP_IMAGE,
            &OPEN_CLIP_TEXT,
            &OWLV2_IMAGE,
            &OWLV2_TEXT,
        ];
        for format in all {
            for (from, to) in format.fixed {
                let published = format.published(to).unwrap();
                assert!(
                    published == *from
                        || format.fixed.iter().any(|(f, t)| *f == published && t == to)
                );
            }
            for (stack, modules) in format.stacked {
                for m in *modules {
                    let name = format!("{}3.{m}weight", format.block);
                    let first = format.blocks[0];
                    let published = format.published(&name).unwrap();
                    let listed = format
                        .inner
                        .iter()
                        .any(|(f, _)| published == format!("{first}3.{f}.weight"));
                    assert!(
                        published == format!("{first}3.{stack}weight") || listed,
                        "{published}"
                    );
                }
            }
        }
    }

    #[test]
    fn layers_keep_their_numbers() {
        let name = OPEN_CLIP_IMAGE.published("blocks.11.attn.k.bias");
        assert_eq!(name.as_deref(), Some("visual.transformer.resblocks.11.attn.in_proj_bias"));
        let name = VIT.published("blocks.2.norm1.weight");
        assert_eq!(name.as_deref(), Some("encoder.layer.2.layernorm_before.weight"));
    }
}
