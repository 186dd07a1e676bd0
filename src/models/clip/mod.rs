//! CLIP text encoders: any transformers `CLIPTextModel`, with or without projection.

mod config;
mod model;

pub use config::{TextConfig, eos_rows};
pub use model::{TextInputs, TextOutputs, text_encoder};
