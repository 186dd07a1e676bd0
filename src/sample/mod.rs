//! Sampling: schedules of noise levels, the start of a picture, the pipeline from prompt to pixels.

mod denoiser;
mod encoder;
mod fill;
pub mod fit;
mod fuse;
mod init;
mod pipeline;
mod request;
mod schedule;
mod settings;
mod start;

pub use encoder::PictureEncoder;
pub use fill::{Known, Resampling};
pub use fuse::{Beside, Steering};
pub use init::{MaskResize, StartNoise, first_inputs};
pub use pipeline::{Loads, Pipeline};
pub use request::{Request, Size};
pub use schedule::Schedule;
pub use settings::{Curve, LastSigma, Sampler, Settings, Solver};
pub use start::{StartLatents, unit_noise};
