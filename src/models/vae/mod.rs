//! The autoencoder between pictures and latents: any diffusers `AutoencoderKL`.

mod config;
mod model;

pub use config::VaeConfig;
pub use model::{decoder, encoder};
