//! Read-only numbers that programs share, wherever they lie.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

/// Read-only f32 numbers in a vector, in a block that holds many tensors, or in a mapped file.
///
/// A clone shares them; the last one gives the memory back.
#[derive(Clone)]
pub struct Floats(Arc<dyn AsRef<[f32]> + Send + Sync>);

/// [`Floats`] that may be gone.
#[derive(Clone)]
pub struct WeakFloats(Weak<dyn AsRef<[f32]> + Send + Sync>);

impl Floats {
    /// Numbers that lie in `holder`.
    pub fn new(holder: impl AsRef<[f32]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(holder))
    }

    /// A handle that does not keep them.
    pub fn downgrade(&self) -> WeakFloats {
        WeakFloats(Arc::downgrade(&self.0))
    }
}

impl WeakFloats {
    /// The numbers, while anyone holds them.
    pub fn upgrade(&self) -> Option<Floats> {
        self.0.upgrade().map(Floats)
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        (*self.0).as_ref()
    }
}

impl From<Vec<f32>> for Floats {
    fn from(data: Vec<f32>) -> Self {
        Self::new(data)
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Floats({} elements)", self.len())
    }
}

impl fmt::Debug for WeakFloats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WeakFloats")
    }
}
