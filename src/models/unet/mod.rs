//! The denoiser of SDXL, SD 1.5 and SD 2.1: any diffusers `UNet2DConditionModel` of these families.

mod config;
mod model;
mod transformer;

pub use config::{Block, Cross, TextTime, UnetConfig};
pub use model::{UnetInputs, unet};
