//! Segment Anything: image encoders (ViT, TinyViT), prompt encoder and mask decoder.

mod config;
mod decoder;
mod prompts;
mod tiny;
mod vit;

pub use config::{DecoderConfig, EncoderConfig, TinyConfig, VitConfig};
pub use decoder::{Masks, Prompted, mask_decoder};
pub use prompts::{Points, Prompts, Tokens, grid_positions};

use crate::{error::Result, nn::Net, plan::Value};

/// Patches of an encoder's picture are this wide in the decoder's: an embedding stands for `16 x 16` pixels.
pub const STRIDE: usize = 16;

/// Encodes pictures, normalised and padded: `[N, H, W, 3]` to `[N, H/16, W/16, C]`.
///
/// # Errors
/// [`crate::error::Error::Shape`] for a picture that does not fit the configuration.
///
/// # Source
/// transformers 5.23, `SamVisionEncoder`; MobileSAM's `TinyViT`.
pub fn image_encoder(net: &mut Net<'_>, config: &EncoderConfig, pixels: Value) -> Result<Value> {
    match config {
        EncoderConfig::Vit(config) => vit::encoder(net, config, pixels),
        EncoderConfig::Tiny(config) => tiny::encoder(net, config, pixels),
    }
}
