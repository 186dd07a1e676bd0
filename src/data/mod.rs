//! Subjects, captions, masks, mixes: everything between a folder of photos and a training batch.

pub mod config;

pub use config::{SubjectConfig, TrainConfig};
