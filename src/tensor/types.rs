//! The element types of a run.

use super::DType;

/// How the programs of a run store numbers, for one kind of device.
///
/// A GPU stores all of them in the type that was asked for. The CPU stores frozen weights of products and convolutions
/// in it and everything else in f32: activations, gradients, what is trained, normalizations, embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Types {
    asked: DType,
    cpu: bool,
}

impl Types {
    /// Those of a run on the CPU.
    pub fn cpu(asked: DType) -> Self {
        Self { asked, cpu: true }
    }

    /// The same kind of device with another type.
    pub fn with(self, asked: DType) -> Self {
        Self { asked, ..self }
    }

    /// What was asked for: the type of frozen weights of products and convolutions.
    pub fn products(self) -> DType {
        self.asked
    }

    /// The type of activations and of every other parameter.
    pub fn values(self) -> DType {
        if self.cpu { DType::F32 } else { self.asked }
    }
}

/// One type for all numbers, as GPUs store them.
impl From<DType> for Types {
    fn from(asked: DType) -> Self {
        Self { asked, cpu: false }
    }
}
