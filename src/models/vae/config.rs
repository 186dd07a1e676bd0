//! diffusers' `AutoencoderKL` configuration.

use crate::{
    error::{Error, Result},
    models::config::Keys,
    tensor::DType,
};
use serde_json::{Value as Json, json};

/// An autoencoder of the Stable Diffusion families.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    /// Channels of the picture that goes in.
    pub in_channels: usize,
    /// Channels of the picture that comes out.
    pub out_channels: usize,
    /// Channels of a latent; the encoder gives twice as many, mean and log variance.
    pub latent_channels: usize,
    /// Channels of each resolution, finest first; the side halves between them.
    pub channels: Vec<usize>,
    /// Residual blocks of each resolution of the encoder; the decoder has one more.
    pub layers: usize,
    /// Groups of the normalizations.
    pub groups: usize,
    /// A 1x1 convolution after the encoder.
    pub quant_conv: bool,
    /// A 1x1 convolution before the decoder.
    pub post_quant_conv: bool,
    /// Attention in the middle of both halves.
    pub mid_attention: bool,
    /// Latents are multiplied by this before the denoiser sees them.
    pub scaling_factor: f32,
    /// Its activations leave the range of f16 (SDXL's original weights), so it runs in f32.
    pub force_upcast: bool,
}

impl VaeConfig {
    /// Reads a diffusers configuration; absent keys have diffusers' defaults.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] naming the first key whose value is not supported.
    pub fn from_json(json: &Json) -> Result<Self> {
        let mut k = Keys::new("vae/config.json", json)?;
        let channels = k.numbers("block_out_channels", &[64])?;
        if channels.contains(&0) {
            return Err(k.wrong("block_out_channels", "numbers above 0"));
        }
        let n = channels.len();
        k.names("down_block_types", n, &["DownEncoderBlock2D"], &vec!["DownEncoderBlock2D"; n])?;
        k.names("up_block_types", n, &["UpDecoderBlock2D"], &vec!["UpDecoderBlock2D"; n])?;
        k.name("act_fn", &["silu", "swish"])?;
        k.skip(&["sample_size"]);
        k.neutral(&[
            ("shift_factor", json!(0.0)),
            ("latents_mean", json!(null)),
            ("latents_std", json!(null)),
        ])?;
        let config = Self {
            in_channels: k.positive("in_channels", 3)?,
            out_channels: k.positive("out_channels", 3)?,
            latent_channels: k.positive("latent_channels", 4)?,
            channels,
            layers: k.number("layers_per_block", 1)?,
            groups: k.positive("norm_num_groups", 32)?,
            quant_conv: k.flag("use_quant_conv", true)?,
            post_quant_conv: k.flag("use_post_quant_conv", true)?,
            mid_attention: k.flag("mid_block_add_attention", true)?,
            scaling_factor: k.real("scaling_factor", 0.18215)?,
            force_upcast: k.flag("force_upcast", false)?,
        };
        if config.layers > 1024 {
            return Err(k.wrong("layers_per_block", "at most 1024"));
        }
        k.finish()?;
        Ok(config)
    }

    /// How its programs store beside a base that stores as `dtype`: bf16 where that is asked for and its
    /// activations stay in range, else f32.
    pub fn storage(&self, dtype: DType) -> DType {
        if dtype == DType::Bf16 && !self.force_upcast { DType::Bf16 } else { DType::F32 }
    }

    /// Refuses f16 where the activations leave its range.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check_storage(&self, dtype: DType) -> Result<()> {
        if dtype != DType::F16 || !self.force_upcast {
            return Ok(());
        }
        Err(Error::Config {
            key: "element type of the autoencoder".into(),
            found: "f16, and force_upcast in vae/config.json".into(),
            expected: "f32 or bf16: the activations of these weights overflow in f16".into(),
            fix: "take f32, or the weights of sdxl-vae-fp16-fix, whose force_upcast is false"
                .into(),
        })
    }

    /// How many picture pixels lie on one side of a latent pixel.
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1).min(32)
    }
}
