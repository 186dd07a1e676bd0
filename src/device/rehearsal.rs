//! A device that stands for a chip and runs nothing: which kernels a run would ask for, and whether the build
//! has them.

use super::{cubin_table::Target, cuda::Cuda, emulated::Emulated};
use crate::error::Result;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// Dynamic shared memory that a block of the chips of `target` may have, bytes.
fn shared_bytes(target: Target) -> u32 {
    match target {
        Target::Sm80 | Target::Ptx => 163 << 10,
        Target::Sm90a | Target::Host => 227 << 10,
    }
}

impl Cuda {
    /// A device that chooses its kernels as a chip of `target` does and finds them in the objects embedded for
    /// it, but launches none: results stay what memory held. The memory is the emulated driver's.
    ///
    /// # Errors
    /// As [`Cuda::emulated`].
    pub fn rehearsal(target: Target) -> Result<Arc<Self>> {
        let mut cuda = Self::emulator(&Emulated::default())?;
        cuda.target = target;
        cuda.shared_bytes = shared_bytes(target);
        cuda.watch.rehearsed = Some(Mutex::default());
        Ok(Arc::new(cuda))
    }

    /// The kernels that a rehearsal would have launched so far; none on a device that launches.
    pub fn rehearsed(&self) -> BTreeSet<&'static str> {
        let rehearsed = self.watch.rehearsed.as_ref();
        rehearsed.map_or_else(BTreeSet::new, |r| {
            r.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// Calls `watcher` with the name of every kernel before it is launched, and waits for each that is not being
    /// captured: what goes wrong then is known by its name.
    pub fn watch(&self, watcher: impl Fn(&'static str) + Send + 'static) {
        self.watch.set(Some(Box::new(watcher)));
    }
}
