//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod pipeline;
mod schedule;

pub use pipeline::{Pipeline, Request, Start, encode_pictures, start_noise};
pub use schedule::{Sampler, Schedule, Spacing};
