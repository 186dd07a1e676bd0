//! Shapes, element types and host tensors; random numbers; the files that hold tensors and pictures.

pub mod atomic;
mod dtype;
mod host;
pub mod image;
pub mod philox;
pub mod safetensors;
mod spec;
mod write;

pub use dtype::DType;
pub use host::Tensor;
pub use spec::Spec;
pub use write::{Listed, write_safetensors, write_safetensors_from};
