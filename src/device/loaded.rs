//! What a device has loaded: objects, modules, kernels.

use super::{
    cubin::Tile,
    driver::Handle,
    objects::{Objects, Swapped},
};
use std::collections::HashMap;

/// Objects loaded and kernels found so far.
#[derive(Debug, Default)]
pub(super) struct Kernels {
    pub objects: Objects,
    pub modules: HashMap<String, Handle>,
    unused: Vec<Handle>,
    pub found: HashMap<&'static str, (Handle, Tile)>,
    pub resident: HashMap<&'static str, u32>,
}

impl Kernels {
    /// Every module that was loaded.
    pub fn modules(&self) -> impl Iterator<Item = Handle> {
        self.modules.values().chain(&self.unused).copied()
    }

    /// Takes the kernels of `object` from now on.
    pub fn swap(&mut self, object: Swapped) {
        // A module of the same name may hold another version; it stays loaded for graphs that use it.
        self.unused.extend(self.modules.remove(&object.source));
        self.objects.swap(object);
        self.found.clear();
        self.resident.clear();
    }

    /// Takes only embedded kernels from now on.
    pub fn swap_back(&mut self) {
        self.objects.swap_back();
        self.found.clear();
        self.resident.clear();
    }

    /// Acts from now on as if the kernels of these names had not been compiled.
    pub fn leave_out(&mut self, symbols: &[String]) {
        self.objects.leave_out(symbols);
        self.found.clear();
        self.resident.clear();
    }
}
