//! Shapes, element types and host tensors; random numbers; the files that hold tensors and pictures.

pub mod atomic;
mod dtype;
mod floats;
mod header;
mod host;
pub mod image;
pub mod philox;
mod raw;
pub mod safetensors;
mod spec;
mod torch;
mod types;
mod widen;
mod write;

pub use dtype::DType;
pub use floats::{Floats, WeakFloats};
pub use host::Tensor;
pub use spec::Spec;
pub use torch::open_weights;
pub use types::Types;
pub use write::{Listed, write_safetensors, write_safetensors_from};
