//! transformers' `Owlv2Config`.

use crate::{
    error::Result,
    kernels::activation::Kind,
    models::{
        clip::TextConfig,
        config::Keys,
        vit::{Positions, Vit, activation, grid},
    },
};
use serde_json::{Value as Json, json};

/// OWLv2's two towers; the heads have their widths.
#[derive(Clone, Debug, PartialEq)]
pub struct Owlv2 {
    /// The picture tower.
    pub vision: Vit,
    /// The text tower.
    pub text: TextConfig,
}

impl Owlv2 {
    /// Reads transformers' configuration of an `Owlv2ForObjectDetection`.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let none = json!({});
        let part = |key: &str| json.get(key).filter(|v| !v.is_null()).unwrap_or(&none);
        let (vision, text) = (vision(part("vision_config"))?, text(part("text_config"))?);
        let mut k = Keys::new("config.json", json)?;
        let width = k.positive("projection_dim", 512)?;
        if width != text.width {
            let want =
                format!("{}, the width of the text tower, as the class head has", text.width);
            return Err(k.wrong("projection_dim", want));
        }
        Ok(Self { vision, text: TextConfig { projection: Some(width), ..text } })
    }
}

fn vision(json: &Json) -> Result<Vit> {
    let mut k = Keys::new("config.json: vision_config", json)?;
    let patch = k.positive("patch_size", 16)?;
    let mut config = Vit {
        channels: k.positive("num_channels", 3)?,
        patch,
        grid: [0; 2],
        positions: Positions::Fixed,
        width: k.positive("hidden_size", 768)?,
        inner: k.positive("intermediate_size", 3072)?,
        layers: k.number("num_hidden_layers", 12)?,
        heads: k.positive("num_attention_heads", 12)?,
        activation: activation(&mut k, Kind::QuickGelu)?,
        eps: k.real("layer_norm_eps", 1e-5)?,
        registers: 0,
        patch_bias: false,
        qkv_bias: true,
        pre_norm: true,
        layer_scale: false,
        swiglu: false,
        projection: None,
        pooler: None,
    };
    if k.get("image_size").is_none() {
        config.grid = [(768 / patch).max(1); 2]; // transformers' default
    } else {
        config.grid = grid(&mut k, patch)?;
    }
    if config.grid[0] != config.grid[1] {
        return Err(k.wrong("image_size", "one side, or twice the same"));
    }
    towers_fit(&k, config.width, config.heads, config.layers)?;
    Ok(config)
}

fn text(json: &Json) -> Result<TextConfig> {
    let mut k = Keys::new("config.json: text_config", json)?;
    let config = TextConfig {
        vocabulary: k.positive("vocab_size", 49408)?,
        positions: k.positive("max_position_embeddings", 16)?,
        width: k.positive("hidden_size", 512)?,
        inner: k.positive("intermediate_size", 2048)?,
        layers: k.number("num_hidden_layers", 12)?,
        heads: k.positive("num_attention_heads", 8)?,
        activation: activation(&mut k, Kind::QuickGelu)?,
        eps: k.real("layer_norm_eps", 1e-5)?,
        projection: None,
        eos: 2, // the pooled row is that of the largest id
    };
    towers_fit(&k, config.width, config.heads, config.layers)?;
    Ok(config)
}

fn towers_fit(k: &Keys<'_>, width: usize, heads: usize, layers: usize) -> Result<()> {
    if !width.is_multiple_of(heads) {
        return Err(k.wrong("num_attention_heads", format!("a divisor of {width}")));
    }
    if layers > 1024 {
        return Err(k.wrong("num_hidden_layers", "at most 1024"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_transformers_default() {
        let config = Owlv2::from_json(&json!({"model_type": "owlv2"})).unwrap();
        assert_eq!((config.vision.grid, config.vision.width), ([48; 2], 768));
        assert_eq!((config.text.positions, config.text.projection), (16, Some(512)));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (json, want) in [
            (json!({"projection_dim": 100}), "projection_dim"),
            (
                json!({"vision_config": {"num_attention_heads": 7}}),
                "vision_config: num_attention_heads",
            ),
            (json!({"vision_config": {"image_size": [32, 64]}}), "image_size"),
            (json!({"text_config": {"hidden_act": "mish"}}), "text_config: hidden_act"),
        ] {
            let text = Owlv2::from_json(&json).unwrap_err().to_string();
            assert!(text.contains(want), "{want}: {text}");
        }
    }
}
