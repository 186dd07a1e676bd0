//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod pipeline;
mod schedule;
mod settings;
mod start;

pub use pipeline::{Pipeline, Request, encode_pictures};
pub use schedule::{Sampler, Schedule};
pub use settings::{Curve, LastSigma, Settings, Solver};
pub use start::{MaskResize, Start, StartNoise, first_inputs, unit_noise};
