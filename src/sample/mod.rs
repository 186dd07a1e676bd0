//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod schedule;

pub use schedule::{Sampler, Schedule, Spacing};
