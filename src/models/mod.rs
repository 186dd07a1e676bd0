//! The models: each a configuration, parameter names and one straight line of recorded operations.

pub mod architecture;
pub mod base;
mod builtin;
pub mod checkpoint;
pub mod clip;
pub mod config;
pub mod decoupling;
pub mod export;
pub mod noise;
pub mod owlv2;
pub mod sam;
mod texts;
pub mod tokenizer;
pub mod towers;
pub mod unet;
pub mod vae;
pub mod vit;
pub mod wordpiece;

pub use builtin::{builtin, builtin_names, segmenter_names};
pub use texts::Texts;
