//! What is asked of a pipeline.

use super::Sampler;
use crate::models::noise::Spacing;

/// What to sample.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: String,
    /// What to guide away from; `None` is the base's own choice (zeros or the empty text).
    pub negative: Option<String>,
    /// Picture height, pixels; a multiple of the latent factor.
    pub height: usize,
    /// Picture width, pixels.
    pub width: usize,
    /// Update rule.
    pub sampler: Sampler,
    /// Placement of the timesteps; `None` is the base's own.
    pub spacing: Option<Spacing>,
    /// Model calls.
    pub steps: usize,
    /// Guidance scale; 1 or less samples without guidance.
    pub guidance: f32,
}

impl Request {
    /// What the text encoders see: the prompt, and what to guide away from (the empty text without one).
    pub fn texts(&self) -> [&str; 2] {
        [&self.prompt, self.negative.as_deref().unwrap_or("")]
    }
}

/// What decides the memory of a denoising loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Pictures in one pass.
    pub pictures: usize,
    /// Whether each is denoised with and without its prompt.
    pub guided: bool,
    /// Latent height and width.
    pub latent: [usize; 2],
}

impl Size {
    /// Rows of the U-Net's batch.
    pub fn rows(&self) -> usize {
        if self.guided { 2 * self.pictures } else { self.pictures }
    }
}
