//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod pipeline;
mod schedule;
mod start;

pub use pipeline::{Pipeline, Request, encode_pictures};
pub use schedule::{Sampler, Schedule, Spacing};
pub use start::{MaskResize, Start, first_inputs, start_noise};
