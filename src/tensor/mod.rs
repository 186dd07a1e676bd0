//! Shapes, element types and host tensors; random numbers; the files that hold tensors and pictures.

mod dtype;
mod host;
pub mod philox;
mod spec;

pub use dtype::DType;
pub use host::Tensor;
pub use spec::Spec;
