//! Sizes of a vision transformer, from transformers' configurations.

use crate::{error::Result, kernels::activation::Kind, models::config::Keys};
use serde_json::{Value as Json, json};

/// What becomes of the position table when the picture has another size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Resized to the target grid, as transformers does.
    Size {
        /// Whether the kernel grows when the table shrinks.
        antialias: bool,
    },
    /// Resized by the factors `(h + 0.1) / H` and `(w + 0.1) / W`, as the original code of DINO and DINOv2 does.
    Factor {
        /// As above.
        antialias: bool,
    },
    /// The picture must have the table's size.
    Fixed,
}

impl Positions {
    /// Whether the kernel grows when the table shrinks.
    pub fn antialias(self) -> bool {
        matches!(self, Positions::Size { antialias: true } | Positions::Factor { antialias: true })
    }
}

/// A vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct Vit {
    /// Channels of a picture.
    pub channels: usize,
    /// Side of a patch, pixels.
    pub patch: usize,
    /// Rows and columns of the position table's patches.
    pub grid: [usize; 2],
    /// What becomes of the table at other sizes.
    pub positions: Positions,
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
    /// Register tokens between the class token and the patches.
    pub registers: usize,
    /// Whether the patch embedding has a bias.
    pub patch_bias: bool,
    /// Whether queries, keys and values have a bias.
    pub qkv_bias: bool,
    /// Whether tokens are normalized before the first layer (CLIP).
    pub pre_norm: bool,
    /// Whether each branch has a learned scale a channel (DINOv2).
    pub layer_scale: bool,
    /// Whether the feed-forward layers are `w3(silu(w1 x) w2 x)`.
    pub swiglu: bool,
    /// Width of the projected class token (CLIP).
    pub projection: Option<usize>,
    /// Width of the pooled class token (`tanh`, ViT).
    pub pooler: Option<usize>,
}

/// `model_type`s of the configurations that are read.
pub const MODEL_TYPES: [&str; 4] = ["dinov2", "dinov2_with_registers", "vit", "clip_vision_model"];

/// Names of activations in configurations, and what they are here.
const ACTIVATIONS: [(&str, Kind); 4] = [
    ("gelu", Kind::Gelu),
    ("quick_gelu", Kind::QuickGelu),
    ("relu", Kind::Relu),
    ("silu", Kind::Silu),
];

impl Vit {
    /// Reads transformers' configuration of a `Dinov2Model`, a `Dinov2WithRegistersModel`, a `ViTModel`, a
    /// `CLIPVisionModel(WithProjection)` or the vision part of a `CLIPModel`.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let inside = json.get("vision_config").filter(|_| json.get("hidden_size").is_none());
        let mut k = Keys::new("config.json", inside.unwrap_or(json))?;
        let kind = match inside {
            Some(_) => "clip_vision_model",
            None => k.name("model_type", &MODEL_TYPES)?,
        };
        let clip = kind == "clip_vision_model";
        let dinov2 = kind.starts_with("dinov2");
        let (patch, eps) = match () {
            () if clip => (32, 1e-5),
            () if dinov2 => (14, 1e-6),
            () => (16, 1e-12),
        };
        let activation = activation(&mut k, if clip { Kind::QuickGelu } else { Kind::Gelu })?;
        let width = k.positive("hidden_size", 768)?;
        let swiglu = dinov2 && k.flag("use_swiglu_ffn", false)?;
        let inner = match dinov2 {
            false => k.positive("intermediate_size", 3072)?,
            true => {
                let ratio = k.double("mlp_ratio", 4.0)?;
                let inner = (width as f64 * ratio.clamp(0.0, 1e3)) as usize;
                if swiglu { (inner * 2 / 3).next_multiple_of(8) } else { inner }
            }
        };
        let patch = k.positive("patch_size", patch)?;
        let grid = grid(&mut k, patch)?;
        let registers = match kind {
            "dinov2_with_registers" => k.number("num_register_tokens", 4)?,
            _ => 0,
        };
        let positions = match clip {
            true => Positions::Fixed,
            false => Positions::Size { antialias: kind == "dinov2_with_registers" },
        };
        let classes = json["architectures"].as_array().cloned().unwrap_or_default();
        let class = |name: &str| classes.iter().any(|c| c.as_str() == Some(name));
        let projected = inside.is_some() || class("CLIPVisionModelWithProjection");
        let own = k.positive("projection_dim", 512)?;
        let common = json["projection_dim"].as_u64().and_then(|n| usize::try_from(n).ok());
        let pooler_width = k.positive("pooler_output_size", width)?;
        let pooled = kind == "vit" && class("ViTModel");
        if pooled {
            k.neutral(&[("pooler_act", json!("tanh"))])?;
        }
        let config = Self {
            channels: k.positive("num_channels", 3)?,
            patch,
            grid,
            positions,
            width,
            inner,
            layers: k.number("num_hidden_layers", 12)?,
            heads: k.positive("num_attention_heads", 12)?,
            activation,
            eps: k.real("layer_norm_eps", eps)?,
            registers,
            patch_bias: !clip,
            qkv_bias: clip || k.flag("qkv_bias", true)?,
            pre_norm: clip,
            layer_scale: dinov2,
            swiglu,
            projection: projected.then_some(common.unwrap_or(own)),
            pooler: pooled.then_some(pooler_width),
        };
        if !width.is_multiple_of(config.heads) {
            return Err(k.wrong("num_attention_heads", format!("a divisor of {width}")));
        }
        if config.layers > 1024 {
            return Err(k.wrong("num_hidden_layers", "at most 1024"));
        }
        Ok(config)
    }
}

/// The activation that `hidden_act` names.
///
/// # Errors
/// [`crate::error::Error::Config`] for another one.
pub fn activation(k: &mut Keys<'_>, default: Kind) -> Result<Kind> {
    if k.get("hidden_act").is_none() {
        return Ok(default);
    }
    let name = k.name("hidden_act", &ACTIVATIONS.map(|(name, _)| name))?;
    Ok(ACTIVATIONS.iter().find(|(n, _)| *n == name).map_or(default, |(_, kind)| *kind))
}

/// Patches of `image_size`, one number or height and width.
///
/// # Errors
/// [`crate::error::Error::Config`] for sides below a patch.
pub fn grid(k: &mut Keys<'_>, patch: usize) -> Result<[usize; 2]> {
    let sides = match k.get("image_size") {
        Some(Json::Array(_)) => k.numbers("image_size", &[])?,
        _ => vec![k.positive("image_size", 224)?; 2],
    };
    match sides[..] {
        [h, w] if h >= patch && w >= patch => Ok([h / patch, w / patch]),
        _ => Err(k.wrong("image_size", format!("one or two sides of at least a patch, {patch}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swiglu_is_two_thirds_as_wide_rounded_to_eights() {
        let json = json!({"model_type": "dinov2", "hidden_size": 1536, "num_attention_heads": 24,
            "mlp_ratio": 4, "use_swiglu_ffn": true});
        assert_eq!(Vit::from_json(&json).unwrap().inner, 4096);
    }

    #[test]
    fn an_activation_that_is_not_known_is_named() {
        let json = json!({"model_type": "vit", "hidden_act": "mish"});
        let text = Vit::from_json(&json).unwrap_err().to_string();
        assert!(text.contains("hidden_act") && text.contains("mish"), "{text}");
    }

    #[test]
    fn the_projection_of_a_whole_clip_is_the_common_one() {
        let json = json!({"model_type": "clip", "projection_dim": 5,
            "vision_config": {"hidden_size": 8, "num_attention_heads": 2, "projection_dim": 512}});
        assert_eq!(Vit::from_json(&json).unwrap().projection, Some(5));
    }
}
