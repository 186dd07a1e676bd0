//! Who is told which kernels are launched.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// Told the name of every kernel before it is launched.
type Watcher = Box<dyn Fn(&'static str) + Send>;

/// What a device does beside launching.
#[derive(Default)]
pub(super) struct Watch {
    watcher: Mutex<Option<Watcher>>,
    /// Kernels that were asked for, on a device that runs none.
    pub rehearsed: Option<Mutex<BTreeSet<&'static str>>>,
}

impl Watch {
    pub fn set(&self, watcher: Option<Watcher>) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = watcher;
    }

    pub fn is_rehearsal(&self) -> bool {
        self.rehearsed.is_some()
    }

    /// Tells whoever watches; whether anybody does.
    pub fn announce(&self, symbol: &'static str) -> bool {
        if let Some(rehearsed) = &self.rehearsed {
            rehearsed.lock().unwrap_or_else(PoisonError::into_inner).insert(symbol);
        }
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.as_ref().map(|tell| tell(symbol)).is_some()
    }
}
