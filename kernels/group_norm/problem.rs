//! What a variant of the group norm is chosen by.

use crate::{
    device::{Cuda, cubin_table::Target},
    tensor::{DType, Spec},
};

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Samples.
    pub samples: usize,
    /// Positions of one sample.
    pub rows: usize,
    /// Channels.
    pub c: usize,
    /// Channels of the first part of `x`, `c` where it is one.
    pub split: usize,
    /// Groups.
    pub groups: usize,
    /// Storage type.
    pub dtype: DType,
    /// Whether the chip has clusters of blocks.
    pub clusters: bool,
}

impl Problem {
    /// Of `groups` groups of `x`, of which `first` is the first part or all.
    pub fn new(cuda: &Cuda, (first, x): (&Spec, &Spec), groups: usize) -> Self {
        let (samples, c) = (x.dims[0], x.last());
        let clusters = matches!(cuda.target(), Target::Sm90a | Target::Host);
        let rows = x.len() / (samples * c).max(1);
        Self { samples, rows, c, split: first.last(), groups, dtype: x.dtype, clusters }
    }

    /// Whether every vector of `vec` channels lies in one part of `x`.
    pub fn in_vectors(&self, vec: usize) -> bool {
        self.c.is_multiple_of(vec) && self.split.is_multiple_of(vec)
    }
}
