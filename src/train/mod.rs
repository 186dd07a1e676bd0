//! Training: what is cached, one step, checkpoints, logs, the run.

mod blueprint;
mod continued;
pub mod decoupled;
mod events;
mod feed;
pub mod fit;
mod folder;
mod log;
mod measure;
mod optimizer;
mod pictures;
mod program;
mod random;
mod results;
mod run;
mod save;
mod scale;
mod start;
mod state;
mod step;
mod stepper;
mod trainable;
mod trainer;
mod words;

pub use crate::models::noise::{NoiseSchedule, Prediction};
pub use blueprint::{Blueprint, Plans, pass_size, text_is_trained};
pub use continued::{continued, give};
pub use decoupled::Decoupled;
pub use events::Events;
pub use feed::{Draws, PhotoFeatures, Prepared, SampleSource, TrainingSample, with_feed};
pub use folder::{RunFolder, config_hash};
pub use log::{Log, Row};
pub use measure::{
    StepSize, peak_memory_bytes, plan_denoising, plan_training, step_options, time_denoising,
    time_training, trace_denoising, trace_training,
};
pub use optimizer::{Group, Optimizer, Rules, Updated};
pub use pictures::{Features, Pictures};
pub use program::{
    Patterns, Text, Trained, is_adapter, is_decoupling, plan_step, predict, text_inputs,
    unet_params,
};
pub use random::RandomWeights;
pub use run::{Hooks, Report, SampleHook, SaveHook, run, trainables};
pub use save::{ENCODER_KEY, TrainedWeights, adapter, modules, save};
pub use start::InitialWeights;
pub use state::{Checkpoints, State, sha256};
pub use step::{Noisy, Objective, Predicted, StepOptions, record};
pub use stepper::{Batch, PassNoise, StepResult, Stepper};
pub use trainable::Trainable;
pub use trainer::{Trainer, coefficients, optimizer};
pub use words::all_named;
