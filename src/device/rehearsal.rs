//! A device that stands for a chip and runs nothing: which kernels a run would ask for, and whether the build
//! has them.

use super::{
    cubin_table::Target, cuda::Cuda, driver::Driver, effort::Launched, emulated::Emulated,
};
use crate::error::{Error, Result};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// A chip that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandIn {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Dynamic shared memory that a block may have, bytes.
    pub shared_bytes: u32,
}

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
        let mut cuda = Self::emulator(&Emulated { poisoned: false, ..Emulated::default() })?;
        cuda.target = target;
        cuda.shared_bytes = shared_bytes(target);
        cuda.watch.rehearsed = Some(Mutex::default());
        Ok(Arc::new(cuda))
    }

    /// A device in the place of `chip`, for programs of any size: as [`Cuda::rehearsal`], but its memory has
    /// addresses and no content, and no driver is opened.
    ///
    /// # Errors
    /// [`Error::NoKernel`] for a compute capability that no kernel is compiled for.
    pub fn stand_in(chip: &StandIn) -> Result<Arc<Self>> {
        let (major, minor) = chip.capability;
        let target = Target::of_chip(major, minor).ok_or_else(|| Error::NoKernel {
            op: "every operation",
            key: format!("{}, compute capability {major}.{minor}", chip.name),
            tried: "8.0 and later".into(),
        })?;
        let mut cuda = Self::with_driver(Driver::none(), 0, chip.name.clone(), Some(target))?;
        cuda.chip = chip.name.clone();
        cuda.capability = chip.capability;
        cuda.multiprocessors = chip.multiprocessors;
        cuda.shared_bytes = chip.shared_bytes;
        cuda.watch.rehearsed = Some(Mutex::default());
        Ok(Arc::new(cuda))
    }

    /// What a rehearsal would have launched since this was asked last; nothing on a device that launches.
    pub fn take_launched(&self) -> Vec<Launched> {
        self.watch.rehearsed().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default()
    }

    /// The kernels that a rehearsal would have launched so far; none on a device that launches.
    pub fn rehearsed(&self) -> BTreeSet<&'static str> {
        let all = self.watch.rehearsed();
        let kernels =
            |all: &Vec<Launched>| all.iter().filter(|l| l.is_kernel()).map(|l| l.kernel).collect();
        all.map_or_else(BTreeSet::new, |all| kernels(&all))
    }

    /// Calls `watcher` with the name of every kernel before it is launched, and waits for each that is not being
    /// captured: what goes wrong then is known by its name.
    pub fn watch(&self, watcher: impl Fn(&'static str) + Send + 'static) {
        self.watch.set(Some(Box::new(watcher)));
    }
}
