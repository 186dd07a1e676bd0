//! transformers' `SamConfig`, part by part, and what stands for it in checkpoints without one.

use crate::{
    error::{Error, Result},
    kernels::activation::Kind,
    models::config::Keys,
};
use serde_json::{Map, Value as Json, json};

/// An image encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum EncoderConfig {
    /// SAM's vision transformer.
    Vit(VitConfig),
    /// MobileSAM's TinyViT.
    Tiny(TinyConfig),
}

/// SAM's vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Side of a patch.
    pub patch: usize,
    /// Channels of a picture.
    pub channels: usize,
    /// Patches down and across.
    pub grid: [usize; 2],
    /// Width of a token.
    pub width: usize,
    /// Heads.
    pub heads: usize,
    /// Width inside the feed-forward layers.
    pub inner: usize,
    /// Output channels.
    pub out: usize,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Epsilon of the blocks' normalizations.
    pub eps: f32,
    /// Activation of the feed-forward layers.
    pub activation: Kind,
    /// Whether there is a table of positions.
    pub positions: bool,
    /// Whether the projections to q, k and v have a bias.
    pub qkv_bias: bool,
}

/// One block of the vision transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Side of its windows; `None` for attention over the whole grid.
    pub window: Option<usize>,
    /// Rows of its two tables of relative positions; `None` without them.
    pub tables: Option<[usize; 2]>,
}

/// MobileSAM's TinyViT.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyConfig {
    /// Channels of a picture.
    pub channels: usize,
    /// Channels between the two convolutions that make the patches.
    pub stem: usize,
    /// Stages; the first is convolutional.
    pub stages: Vec<Stage>,
    /// Output channels.
    pub out: usize,
}

/// One stage of TinyViT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its channels.
    pub width: usize,
    /// Its blocks.
    pub depth: usize,
    /// Width inside an inverted bottleneck (first stage) or a feed-forward layer.
    pub inner: usize,
    /// Heads; 0 in the first stage.
    pub heads: usize,
    /// Side of its windows; 0 in the first stage.
    pub window: usize,
}

/// Prompt encoder and mask decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Width of a token and channels of an image embedding.
    pub width: usize,
    /// Two-way layers.
    pub layers: usize,
    /// Heads.
    pub heads: usize,
    /// Width inside the layers' feed-forward parts.
    pub inner: usize,
    /// Width inside the layers' attention between tokens and picture.
    pub cross: usize,
    /// Width inside the attention after the layers.
    pub last: usize,
    /// Epsilon of the layers' normalizations.
    pub eps: f32,
    /// Activation of the layers' feed-forward parts.
    pub activation: Kind,
    /// Mask tokens: one for a single mask, then those of the ambiguous case.
    pub masks: usize,
    /// Layers of the head that predicts the quality.
    pub iou_depth: usize,
    /// Width inside that head.
    pub iou_inner: usize,
    /// Channels of a mask prompt after its second convolution.
    pub mask_channels: usize,
    /// Epsilon of its normalizations.
    pub mask_eps: f32,
    /// Its activation.
    pub mask_activation: Kind,
    /// Side of the padded picture and of its embedding, where the configuration says so.
    pub sides: Option<[usize; 2]>,
}

/// The activations that transformers' `hidden_act` names; `gelu` is the exact one.
fn activation(k: &mut Keys<'_>, default: &'static str) -> Result<Kind> {
    let all = [
        ("gelu", Kind::Gelu),
        ("relu", Kind::Relu),
        ("quick_gelu", Kind::QuickGelu),
        ("silu", Kind::Silu),
    ];
    let mut names = all.map(|(name, _)| name);
    names.sort_by_key(|name| *name != default);
    let found = k.name("hidden_act", &names)?;
    Ok(all.iter().find(|(name, _)| *name == found).map_or(Kind::Gelu, |(_, kind)| *kind))
}

/// The object under `key`; an empty one where it is missing, as transformers takes it.
fn part(json: &Json, key: &str) -> Json {
    json.get(key).filter(|v| !v.is_null()).cloned().unwrap_or(Json::Object(Map::new()))
}

impl EncoderConfig {
    /// Reads a transformers configuration of a `SamModel`, or what the checkpoint reader made for original names.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        if json["model_type"] == "mobile_sam" {
            return Ok(Self::Tiny(TinyConfig::from_json(json)?));
        }
        let mut k = Keys::new("config.json", json)?;
        k.name("model_type", &["sam"])?;
        Ok(Self::Vit(VitConfig::from_json(&part(json, "vision_config"))?))
    }

    /// Height and width of the pictures it takes; `None` where any sides that 16 divides go.
    pub fn picture(&self) -> Option<[usize; 2]> {
        match self {
            Self::Vit(c) => Some(c.grid.map(|g| g * c.patch)),
            Self::Tiny(_) => None,
        }
    }

    /// Channels of the pictures.
    pub fn channels(&self) -> usize {
        match self {
            Self::Vit(c) => c.channels,
            Self::Tiny(c) => c.channels,
        }
    }
}

impl VitConfig {
    fn from_json(json: &Json) -> Result<Self> {
        let mut k = Keys::new("config.json: vision_config", json)?;
        k.name("model_type", &["sam_vision_model"])?;
        k.neutral(&[("attention_dropout", json!(0.0)), ("dropout", json!(0.0))])?;
        let width = k.positive("hidden_size", 768)?;
        let heads = k.positive("num_attention_heads", 12)?;
        let patch = k.positive("patch_size", 16)?;
        let side = k.positive("image_size", 1024)? / patch;
        let grid = k.numbers("grid", &[side, side])?;
        let [gh, gw] = grid[..] else { return Err(k.wrong("grid", "two whole numbers")) };
        let inner = match k.number("mlp_dim", 0)? {
            // truncated, as Python's int() does
            0 => (width as f64 * k.double("mlp_ratio", 4.0)?) as usize,
            n => n,
        };
        let depth = k.positive("num_hidden_layers", 12)?;
        let window = k.number("window_size", 14)?;
        let global = match k.get("global_attn_indexes") {
            Some(Json::Array(list)) if list.is_empty() => vec![],
            _ => k.numbers("global_attn_indexes", &[2, 5, 8, 11])?,
        };
        let relative = k.flag("use_rel_pos", true)?;
        let tables = k.get("tables").and_then(Json::as_array);
        if depth > 1024 || gh == 0 || gw == 0 || width % heads != 0 {
            let want =
                format!("a divisor of {width}, at most 1024 layers, a picture of a patch or more");
            return Err(k.wrong("num_attention_heads", want));
        }
        let block = |i: usize| {
            let window = (window > 0 && !global.contains(&i)).then_some(window);
            let own = window.map_or([gh, gw], |w| [w, w]).map(|n| 2 * n - 1);
            let given = tables.and_then(|t| serde_json::from_value(t.get(i)?.clone()).ok());
            Block { window, tables: relative.then_some(given.unwrap_or(own)) }
        };
        Ok(Self {
            patch,
            channels: k.positive("num_channels", 3)?,
            grid: [gh, gw],
            width,
            heads,
            inner,
            out: k.positive("output_channels", 256)?,
            blocks: (0..depth).map(block).collect(),
            eps: k.real("layer_norm_eps", 1e-6)?,
            activation: activation(&mut k, "gelu")?,
            positions: k.flag("use_abs_pos", true)?,
            qkv_bias: k.flag("qkv_bias", true)?,
        })
    }
}

impl TinyConfig {
    fn from_json(json: &Json) -> Result<Self> {
        let mut k = Keys::new("mobile_sam", json)?;
        let width = k.numbers("widths", &[64, 128, 160, 320])?;
        let mut each = |key, default: [usize; 4]| match k.numbers(key, &default)? {
            list if list.len() == width.len() => Ok(list),
            _ => Err(k.wrong(key, format!("a list of {}", width.len()))),
        };
        let depth = each("depths", [2, 2, 6, 2])?;
        let inner = each("inner", [256, 512, 640, 1280])?;
        let heads = each("heads", [0, 4, 5, 10])?;
        let window = each("windows", [0, 7, 14, 7])?;
        let stage = |i: usize| Stage {
            width: width[i],
            depth: depth[i],
            inner: inner[i],
            heads: heads[i],
            window: window[i],
        };
        let stages: Vec<Stage> = (0..width.len()).map(stage).collect();
        let bad = |s: &Stage| s.heads == 0 || s.window == 0 || !s.width.is_multiple_of(s.heads);
        if let Some(s) = stages[1..].iter().find(|s| bad(s)) {
            return Err(Error::Config {
                key: "attn.attention_biases".into(),
                found: format!("{} heads in windows of {}, width {}", s.heads, s.window, s.width),
                expected: "a row for each head, a square number of columns".into(),
                fix: "use a MobileSAM checkpoint".into(),
            });
        }
        Ok(Self {
            channels: k.positive("num_channels", 3)?,
            stem: k.positive("stem", 32)?,
            stages,
            out: k.positive("output_channels", 256)?,
        })
    }
}

impl DecoderConfig {
    /// Reads a transformers configuration of a `SamModel`, or what the checkpoint reader made for original names.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let prompt = part(json, "prompt_encoder_config");
        let mut k = Keys::new("config.json: prompt_encoder_config", &prompt)?;
        let width = k.positive("hidden_size", 256)?;
        let patch = k.positive("patch_size", 16)?;
        let sides = match k.flag("any_size", false)? {
            true => None,
            false => Some(k.positive("image_size", 1024)?).map(|side| [side, side / patch]),
        };
        if k.number("num_point_embeddings", 4)? != 4 {
            return Err(k.wrong("num_point_embeddings", "4"));
        }
        let mask_channels = k.positive("mask_input_channels", 16)?;
        let mask_eps = k.real("layer_norm_eps", 1e-6)?;
        let mask_activation = activation(&mut k, "gelu")?;
        let decoder = part(json, "mask_decoder_config");
        let mut k = Keys::new("config.json: mask_decoder_config", &decoder)?;
        let heads = k.positive("num_attention_heads", 8)?;
        let cross = match k.number("cross_width", 0)? {
            0 => width / 2, // transformers' layers do not ask the configuration
            n => n,
        };
        let last = match k.number("last_width", 0)? {
            0 => width / k.positive("attention_downsample_rate", 2)?,
            n => n,
        };
        if k.positive("hidden_size", 256)? != width {
            return Err(k.wrong("hidden_size", format!("{width}, as the prompt encoder has it")));
        }
        if [width, cross, last].iter().any(|w| w % heads != 0 || *w == 0) || width < 8 {
            let want = format!("a divisor of {width}, {cross} and {last}");
            return Err(k.wrong("num_attention_heads", want));
        }
        let config = Self {
            width,
            layers: k.number("num_hidden_layers", 2)?,
            heads,
            inner: k.positive("mlp_dim", 2048)?,
            cross,
            last,
            eps: k.real("layer_norm_eps", 1e-6)?,
            activation: activation(&mut k, "relu")?,
            masks: k.positive("num_multimask_outputs", 3)? + 1,
            iou_depth: k.number("iou_head_depth", 3)?.max(2),
            iou_inner: k.positive("iou_head_hidden_dim", 256)?,
            mask_channels,
            mask_eps,
            mask_activation,
            sides,
        };
        if config.layers > 1024 || config.iou_depth > 1024 || config.masks > 1024 {
            return Err(k.wrong("num_hidden_layers", "at most 1024 layers and masks"));
        }
        Ok(config)
    }
}
