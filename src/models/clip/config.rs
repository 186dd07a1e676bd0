//! transformers' `CLIPTextConfig`, and where a text ends.

use crate::{error::Result, kernels::activation::Kind, models::config::Keys};
use serde_json::{Value as Json, json};

/// A CLIP text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the token table.
    pub vocabulary: usize,
    /// Longest text in tokens.
    pub positions: usize,
    /// Width of a token.
    pub width: usize,
    /// Width inside the feed-forward layers.
    pub inner: usize,
    /// Layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Activation of the feed-forward layers.
    pub activation: Kind,
    /// Epsilon of the normalizations.
    pub eps: f32,
    /// Width of the projected pooled vector; `None` for a model without projection.
    pub projection: Option<usize>,
    /// The token that ends a text.
    pub eos: i64,
}

impl TextConfig {
    /// Reads a transformers configuration (of a text model, or the text part of a CLIP model).
    ///
    /// A model has a projection when its `architectures` says so (`...WithProjection`, `CLIPModel`).
    /// Keys that transformers keeps in every configuration (generation, labels) are not looked at.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let own = match json.get("text_config") {
            Some(text) if json.get("hidden_size").is_none() => text,
            _ => json,
        };
        let mut k = Keys::new("text_encoder/config.json", own)?;
        k.name("model_type", &["clip_text_model", "clip"])?;
        k.neutral(&[("attention_dropout", json!(0.0)), ("dropout", json!(0.0))])?;
        let kinds = [("quick_gelu", Kind::QuickGelu), ("gelu", Kind::Gelu)];
        let kind = k.name("hidden_act", &kinds.map(|(name, _)| name))?;
        let activation = if kind == kinds[0].0 { kinds[0].1 } else { kinds[1].1 };
        let projected = json["architectures"].as_array().is_some_and(|names| {
            let with = |n: &str| n.ends_with("WithProjection") || n == "CLIPModel";
            names.iter().filter_map(Json::as_str).any(with)
        });
        let projection = k.positive("projection_dim", 512)?;
        let config = Self {
            vocabulary: k.positive("vocab_size", 49408)?,
            positions: k.positive("max_position_embeddings", 77)?,
            width: k.positive("hidden_size", 512)?,
            inner: k.positive("intermediate_size", 2048)?,
            layers: k.positive("num_hidden_layers", 12)?,
            heads: k.positive("num_attention_heads", 8)?,
            activation,
            eps: k.real("layer_norm_eps", 1e-5)?,
            projection: projected.then_some(projection),
            eos: match k.get("eos_token_id") {
                None => 49407,
                Some(v) => v.as_i64().ok_or_else(|| k.wrong("eos_token_id", "a token id"))?,
            },
        };
        if !config.width.is_multiple_of(config.heads) {
            return Err(k.wrong("num_attention_heads", format!("a divisor of {}", config.width)));
        }
        if config.layers > 1024 {
            return Err(k.wrong("num_hidden_layers", "at most 1024"));
        }
        Ok(config)
    }
}

/// Row of each text of `length` tokens at which the pooled vector is taken.
///
/// The first `eos`; where a configuration says 2 (as those written before transformers 4.31 do, wrongly), the
/// first largest id. A text without `eos` gives row 0, as transformers does.
pub fn eos_rows(ids: &[i32], length: usize, eos: i64) -> Vec<i32> {
    let first = |text: &[i32], id: i64| text.iter().position(|t| i64::from(*t) == id).unwrap_or(0);
    let row = |text: &[i32]| {
        let id = if eos == 2 { text.iter().copied().max().map_or(0, i64::from) } else { eos };
        i32::try_from(first(text, id)).unwrap_or(0)
    };
    ids.chunks(length.max(1)).map(row).collect()
}

/// What is added to the score of a padding token: nothing is left of it behind `exp`, in any element type.
const PADDING: f32 = -2000.0;

/// For an attention mask `[N, L]` (0: padding) what [`crate::nn::Masked`] holds: the scores `[N, L, heads]` and the
/// queries that see a key `[N, L, 1]`. A token behind nothing but padding sees none.
pub fn padding_scores(mask: &[i64], length: usize, config: &TextConfig) -> [Vec<f32>; 2] {
    // The attention multiplies the scores with the inverse root of the width of a head.
    let root = ((config.width / config.heads.max(1)) as f32).sqrt();
    let score = |m: &i64| if *m == 0 { PADDING * root } else { 0.0 };
    let scores = mask.iter().flat_map(|m| std::iter::repeat_n(score(m), config.heads)).collect();
    let seeing = mask.chunks(length.max(1)).flat_map(|text| {
        let first = text.iter().position(|m| *m != 0).unwrap_or(text.len());
        (0..text.len()).map(move |i| if i < first { 0.0 } else { 1.0 })
    });
    [scores, seeing.collect()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legacy_eos_means_the_first_largest_id() {
        assert_eq!(eos_rows(&[5, 9, 9, 1, 2, 3, 4, 0], 4, 2), [1, 2]);
    }

    #[test]
    fn added_tokens_do_not_move_the_eos() {
        assert_eq!(eos_rows(&[5, 49408, 49407, 49407], 4, 49407), [2]);
        assert_eq!(eos_rows(&[5, 6, 7, 8], 4, 49407), [0]);
    }

    #[test]
    fn a_token_behind_nothing_but_padding_sees_nothing() {
        let config = TextConfig::from_json(&json!({"hidden_act": "gelu", "hidden_size": 8,
            "num_attention_heads": 2}))
        .unwrap();
        let [scores, seeing] = padding_scores(&[1, 0, 0, 7, 0, 0], 2, &config);
        assert_eq!(
            scores,
            [0.0, 0.0, -4000.0, -4000.0, -4000.0, -4000.0, 0.0, 0.0]
                .iter()
                .copied()
                .chain([-4000.0; 4])
                .collect::<Vec<_>>()
        );
        assert_eq!(seeing, [1.0, 1.0, 0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn another_activation_is_refused_by_name() {
        let text = TextConfig::from_json(&json!({"hidden_act": "relu"})).unwrap_err().to_string();
        assert!(text.contains("hidden_act") && text.contains("relu"), "{text}");
    }
}
