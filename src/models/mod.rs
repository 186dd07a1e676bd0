//! The models: each a configuration, parameter names and one straight line of recorded operations.

pub mod checkpoint;
pub mod noise;
pub mod tokenizer;
