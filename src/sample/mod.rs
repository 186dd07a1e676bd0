//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod init;
mod pipeline;
mod schedule;
mod settings;
mod start;

pub use init::{MaskResize, StartNoise, first_inputs};
pub use pipeline::{Pipeline, Request, encode_pictures};
pub use schedule::Schedule;
pub use settings::{Curve, LastSigma, Sampler, Settings, Solver};
pub use start::{Start, unit_noise};
