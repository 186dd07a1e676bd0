//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod denoiser;
mod encoder;
pub mod fit;
mod pipeline;
mod schedule;
mod start;
mod texts;

pub use encoder::PictureEncoder;
pub use fit::Size;
pub use pipeline::{Loads, Pipeline, Request};
pub use schedule::{Sampler, Schedule, Spacing};
pub use start::{MaskResize, Start, first_inputs, start_noise};
pub use texts::Texts;
