//! CLIP text encoders: any transformers `CLIPTextModel`, with or without projection; OWLv2's, with a padding mask.

mod config;
mod model;

pub use config::{TextConfig, eos_rows, padding_scores};
pub use model::{TextInputs, TextOutputs, text_encoder};
