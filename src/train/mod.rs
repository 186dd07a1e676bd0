//! Training: what is cached, one step, checkpoints, logs, the run.

mod events;
mod folder;
mod log;
mod optimizer;
mod random;
mod start;
mod state;
mod step;

pub use crate::models::noise::{NoiseSchedule, Prediction};
pub use events::Events;
pub use folder::{RunFolder, config_hash};
pub use log::{Log, Row};
pub use optimizer::{Group, Optimizer};
pub use random::RandomWeights;
pub use start::Start;
pub use state::{Checkpoints, State, sha256};
pub use step::{Batch, Noisy, Objective, StepOptions, Stepper, record};
