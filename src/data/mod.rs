//! Subjects, captions, masks, mixes: everything between a folder of photos and a training batch.
//!
//! What stands at a position of the run is a function of the seed and the position
//! ([`Dataset::sample`]), so a run that goes on after a kill needs no state of this room.

pub mod config;
mod dataset;
pub mod layout;
mod matte;
pub mod mix;
pub mod prior;
pub mod segment;
mod subject;

pub use config::{SubjectConfig, TrainConfig};
pub use dataset::{Batch, Dataset, Draw, Origin, Sample};
pub use layout::{Composition, Layout};
pub use matte::matte;
pub use subject::{Photo, PhotoFile, Subject, load_all, photo_files};
