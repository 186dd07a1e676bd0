//! Who is told which kernels are launched.

use super::effort::Launched;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Told the name of every kernel before it is launched.
type Watcher = Box<dyn Fn(&'static str) + Send>;

/// What a device does beside launching.
#[derive(Default)]
pub(super) struct Watch {
    watcher: Mutex<Option<Watcher>>,
    /// What was asked for, on a device that runs nothing.
    pub rehearsed: Option<Mutex<Vec<Launched>>>,
}

impl Watch {
    pub fn set(&self, watcher: Option<Watcher>) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = watcher;
    }

    pub fn is_rehearsal(&self) -> bool {
        self.rehearsed.is_some()
    }

    /// Everything that was asked for so far, on a device that runs nothing.
    pub fn rehearsed(&self) -> Option<MutexGuard<'_, Vec<Launched>>> {
        self.rehearsed.as_ref().map(|r| r.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Remembers what would have been launched, on a device that runs nothing.
    pub fn remember(&self, launched: impl FnOnce() -> Launched) {
        if let Some(mut rehearsed) = self.rehearsed() {
            rehearsed.push(launched());
        }
    }

    /// Tells whoever watches; whether anybody does.
    pub fn announce(&self, symbol: &'static str) -> bool {
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.as_ref().map(|tell| tell(symbol)).is_some()
    }
}
