//! diffusers' `UNet2DConditionModel` configuration, resolved block by block.

use crate::{error::Result, models::config::Keys};
use serde_json::{Value as Json, json};

/// The transformers of one block.
#[derive(Clone, Debug, PartialEq)]
pub struct Cross {
    /// Heads of every attention; the head width is `channels / heads`.
    pub heads: usize,
    /// Width of the text tokens.
    pub context: usize,
    /// Transformer blocks after each residual block.
    pub depths: Vec<usize>,
    /// The first attention looks at the text too.
    pub only_cross: bool,
}

/// One resolution of the way down, the way up, or the middle.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Channels.
    pub channels: usize,
    /// Residual blocks.
    pub layers: usize,
    /// Its transformers, if it has any.
    pub cross: Option<Cross>,
}

/// Additional conditioning on a pooled text vector and time ids (`text_time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextTime {
    /// Width of the sinusoid of each id.
    pub id_dim: usize,
    /// Width of the pooled vector and all sinusoids together.
    pub input_dim: usize,
}

impl TextTime {
    /// Width of the pooled vector when there are six time ids.
    pub fn pooled_dim(&self) -> usize {
        self.input_dim.saturating_sub(6 * self.id_dim)
    }
}

/// A U-Net of the Stable Diffusion families.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// Channels of the noisy latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Latent side the model was made for, if the configuration says so.
    pub sample_size: Option<usize>,
    /// The way down, first block first.
    pub down: Vec<Block>,
    /// The middle.
    pub mid: Option<Block>,
    /// The way up, deepest block first; `layers` includes the additional one.
    pub up: Vec<Block>,
    /// `2 x - 1` before the first convolution.
    pub center_input: bool,
    /// Cosine before sine in the sinusoids.
    pub flip_sin_to_cos: bool,
    /// Shift of the sinusoids' frequency scale.
    pub freq_shift: f32,
    /// Width of the time embedding.
    pub time_dim: usize,
    /// Groups and epsilon of the normalizations.
    pub norm: (usize, f32),
    /// Side of the first kernel.
    pub conv_in_kernel: usize,
    /// Side of the last kernel.
    pub conv_out_kernel: usize,
    /// Zeros around the halving convolutions; 0 means below and to the right only.
    pub downsample_padding: usize,
    /// The residual sums of the middle are divided by this.
    pub mid_divisor: f32,
    /// Projections around the transformers are linear layers, not 1x1 convolutions.
    pub linear_projection: bool,
    /// Additional conditioning.
    pub text_time: Option<TextTime>,
}

const DOWN: [&str; 2] = ["CrossAttnDownBlock2D", "DownBlock2D"];
const UP: [&str; 2] = ["CrossAttnUpBlock2D", "UpBlock2D"];

impl UnetConfig {
    /// Reads a diffusers configuration; absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let mut k = Keys::new("unet/config.json", json)?;
        refuse_other_families(&mut k)?;
        let channels = k.numbers("block_out_channels", &[320, 640, 1280, 1280])?;
        if channels.contains(&0) {
            return Err(k.wrong("block_out_channels", "numbers above 0"));
        }
        let blocks = Blocks::read(&mut k, channels)?;
        let first = blocks.channels[0];
        let config = Self {
            in_channels: k.positive("in_channels", 4)?,
            out_channels: k.positive("out_channels", 4)?,
            sample_size: sample_size(&mut k),
            down: blocks.down(&k)?,
            mid: blocks.mid(&mut k)?,
            up: blocks.up(&k)?,
            center_input: k.flag("center_input_sample", false)?,
            flip_sin_to_cos: k.flag("flip_sin_to_cos", true)?,
            freq_shift: k.real("freq_shift", 0.0)?,
            time_dim: k.positive("time_embedding_dim", 4 * first)?,
            norm: (k.positive("norm_num_groups", 32)?, k.real("norm_eps", 1e-5)?),
            conv_in_kernel: k.positive("conv_in_kernel", 3)?,
            conv_out_kernel: k.positive("conv_out_kernel", 3)?,
            downsample_padding: k.number("downsample_padding", 1)?,
            mid_divisor: k.real("mid_block_scale_factor", 1.0)?,
            linear_projection: k.flag("use_linear_projection", false)?,
            text_time: text_time(&mut k)?,
        };
        if k.is_null("norm_num_groups") {
            return Err(k.wrong("norm_num_groups", "a number of groups"));
        }
        if config.mid_divisor == 0.0 {
            return Err(k.wrong("mid_block_scale_factor", "a number other than 0"));
        }
        k.finish()?;
        Ok(config)
    }

    /// Width of the text tokens; `None` when no block looks at text.
    pub fn context_dim(&self) -> Option<usize> {
        let blocks = self.down.iter().chain(&self.mid).chain(&self.up);
        blocks.filter_map(|b| b.cross.as_ref()).map(|c| c.context).next()
    }
}

/// Keys whose other values belong to families that are not supported.
fn refuse_other_families(k: &mut Keys<'_>) -> Result<()> {
    k.name("act_fn", &["silu", "swish"])?;
    k.name("time_embedding_type", &["positional"])?;
    k.name("resnet_time_scale_shift", &["default"])?;
    k.name("attention_type", &["default"])?;
    // In f32 an upcast changes nothing, and attention always accumulates in f32.
    k.flag("upcast_attention", false)?;
    // Read only by block types that are refused anyway; diffusers passes them on unread.
    k.skip(&["mid_block_only_cross_attention", "addition_embed_type_num_heads"]);
    let none = json!(null);
    k.neutral(&[
        ("dropout", json!(0.0)),
        ("encoder_hid_dim", none.clone()),
        ("encoder_hid_dim_type", none.clone()),
        ("dual_cross_attention", json!(false)),
        ("class_embed_type", none.clone()),
        ("num_class_embeds", none.clone()),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("time_embedding_act_fn", none.clone()),
        ("timestep_post_act", none.clone()),
        ("time_cond_proj_dim", none.clone()),
        ("class_embeddings_concat", json!(false)),
        ("cross_attention_norm", none),
    ])
}

fn sample_size(k: &mut Keys<'_>) -> Option<usize> {
    let value = k.get("sample_size")?;
    let side = value.as_array().and_then(|a| a.first()).unwrap_or(value);
    side.as_u64().and_then(|n| usize::try_from(n).ok())
}

fn text_time(k: &mut Keys<'_>) -> Result<Option<TextTime>> {
    let id_dim = k.number("addition_time_embed_dim", 0)?;
    let input_dim = k.number("projection_class_embeddings_input_dim", 0)?;
    let Some(kind) = k.get("addition_embed_type") else { return Ok(None) };
    if kind.as_str() != Some("text_time") {
        return Err(k.wrong("addition_embed_type", "\"text_time\" or nothing"));
    }
    if id_dim == 0 {
        return Err(k.wrong("addition_time_embed_dim", "a width above 0"));
    }
    if input_dim <= id_dim {
        return Err(k.wrong("projection_class_embeddings_input_dim", "pooled and id widths"));
    }
    Ok(Some(TextTime { id_dim, input_dim }))
}

/// What the block lists say, one entry a block, outermost first.
struct Blocks {
    channels: Vec<usize>,
    down_types: Vec<&'static str>,
    up_types: Vec<&'static str>,
    layers: Vec<usize>,
    heads: Vec<usize>,
    context: Vec<usize>,
    depths: Vec<Json>,
    /// Innermost first, as diffusers has it.
    up_depths: Vec<Json>,
    only_cross: Vec<bool>,
}

impl Blocks {
    fn read(k: &mut Keys<'_>, channels: Vec<usize>) -> Result<Self> {
        let n = channels.len();
        let [cross, plain] = DOWN;
        let down_types = k.names("down_block_types", n, &DOWN, &[cross, cross, cross, plain])?;
        let [cross, plain] = UP;
        let up_types = k.names("up_block_types", n, &UP, &[plain, cross, cross, cross])?;
        let layers = k.each_number("layers_per_block", n, 2)?;
        if layers.iter().any(|l| *l > 1024) {
            return Err(k.wrong("layers_per_block", "at most 1024"));
        }
        // Named head width, used by diffusers as the number of heads (its issue 2011).
        let width_key = k.each_number("attention_head_dim", n, 8)?;
        let heads = match k.get("num_attention_heads") {
            None => width_key,
            Some(_) => k.each_number("num_attention_heads", n, 8)?,
        };
        let depths = k.each("transformer_layers_per_block", n, &json!(1))?;
        let nested = depths.iter().any(Json::is_array);
        let up_depths = match k.get("reverse_transformer_layers_per_block") {
            None if nested => {
                let key = "reverse_transformer_layers_per_block";
                return Err(k.wrong(key, "a list, because transformer_layers_per_block is nested"));
            }
            None => depths.iter().rev().cloned().collect(),
            Some(_) => k.each("reverse_transformer_layers_per_block", n, &json!(1))?,
        };
        let context = k.each_number("cross_attention_dim", n, 1280)?;
        let only_cross = k.each("only_cross_attention", n, &json!(false))?;
        let only_cross: Option<Vec<bool>> = only_cross.iter().map(Json::as_bool).collect();
        let only_cross =
            only_cross.ok_or_else(|| k.wrong("only_cross_attention", "true or false"))?;
        Ok(Self {
            channels,
            down_types,
            up_types,
            layers,
            heads,
            context,
            depths,
            up_depths,
            only_cross,
        })
    }

    fn down(&self, k: &Keys<'_>) -> Result<Vec<Block>> {
        let key = "transformer_layers_per_block";
        let block = |i: usize| {
            let layers = self.layers[i];
            let cross = match self.down_types[i] == DOWN[0] {
                true => Some(self.cross(k, i, depths(k, key, &self.depths[i], layers)?)?),
                false => None,
            };
            Ok(Block { channels: self.channels[i], layers, cross })
        };
        (0..self.channels.len()).map(block).collect()
    }

    fn up(&self, k: &Keys<'_>) -> Result<Vec<Block>> {
        let key = "reverse_transformer_layers_per_block";
        let n = self.channels.len();
        let block = |i: usize| {
            let outer = n - 1 - i;
            let layers = self.layers[outer] + 1;
            let cross = match self.up_types[i] == UP[0] {
                true => Some(self.cross(k, outer, depths(k, key, &self.up_depths[i], layers)?)?),
                false => None,
            };
            Ok(Block { channels: self.channels[outer], layers, cross })
        };
        (0..n).map(block).collect()
    }

    fn mid(&self, k: &mut Keys<'_>) -> Result<Option<Block>> {
        let explicit_none = k.is_null("mid_block_type");
        k.name("mid_block_type", &["UNetMidBlock2DCrossAttn"])?;
        if explicit_none {
            return Ok(None);
        }
        let last = self.channels.len() - 1;
        let depths = depths(k, "transformer_layers_per_block", &self.depths[last], 1)?;
        // diffusers does not pass only_cross_attention on to the middle block.
        let cross = Cross { only_cross: false, ..self.cross(k, last, depths)? };
        Ok(Some(Block { channels: self.channels[last], layers: 2, cross: Some(cross) }))
    }

    fn cross(&self, k: &Keys<'_>, i: usize, depths: Vec<usize>) -> Result<Cross> {
        let heads = self.heads[i];
        if heads == 0 || heads > self.channels[i] {
            return Err(k.wrong("attention_head_dim", format!("1 to {} heads", self.channels[i])));
        }
        if self.context[i] == 0 {
            return Err(k.wrong("cross_attention_dim", "a width above 0"));
        }
        Ok(Cross { heads, context: self.context[i], depths, only_cross: self.only_cross[i] })
    }
}

/// Depths of `layers` transformers: one number for all, or a list of at least as many.
fn depths(k: &Keys<'_>, key: &str, value: &Json, layers: usize) -> Result<Vec<usize>> {
    let depths = match value {
        Json::Array(list) if list.len() >= layers => {
            list[..layers].iter().map(|v| k.whole(key, v)).collect::<Result<Vec<_>>>()?
        }
        Json::Array(_) => return Err(k.wrong(key, format!("inner lists of at least {layers}"))),
        one => vec![k.whole(key, one)?; layers],
    };
    match depths.iter().any(|d| *d > 1024) {
        true => Err(k.wrong(key, "depths of at most 1024")),
        false => Ok(depths),
    }
}
