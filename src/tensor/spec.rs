//! Shapes without data.

use super::DType;

/// Shape and element type of a dense row-major value; channels last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Extents, outermost first.
    pub dims: Vec<usize>,
    /// Element type.
    pub dtype: DType,
}

impl Spec {
    /// A spec of `dtype`.
    pub fn new(dims: &[usize], dtype: DType) -> Self {
        Self { dims: dims.to_vec(), dtype }
    }

    /// An f32 spec.
    pub fn f32(dims: &[usize]) -> Self {
        Self::new(dims, DType::F32)
    }

    /// An i32 spec.
    pub fn i32(dims: &[usize]) -> Self {
        Self::new(dims, DType::I32)
    }

    /// The same element type with other dims.
    pub fn with(&self, dims: &[usize]) -> Self {
        Self::new(dims, self.dtype)
    }

    /// Element count.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// True when it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * self.dtype.size_bytes()
    }

    /// Last extent (1 for a scalar).
    pub fn last(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// `(rows, cols)` with the last axis as cols.
    pub fn rows_cols(&self) -> (usize, usize) {
        let c = self.last();
        (self.len().checked_div(c).unwrap_or(0), c)
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.dims, self.dtype)
    }
}
