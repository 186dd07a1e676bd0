//! Selvedge personalizes text-to-image models with several subjects, without mixing their identities.
//!
//! *An operation is a folder, a model is a straight line, a run is a list you can print.*
#![deny(unsafe_code)]

pub mod cli;
pub mod data;
pub mod device;
pub mod error;
pub mod inpaint;
#[path = "../kernels/mod.rs"]
pub mod kernels;
pub mod lora;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod op;
pub mod plan;
pub mod sample;
pub mod segment;
pub mod tensor;
pub mod train;
