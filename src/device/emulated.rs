//! The machine that the emulated driver pretends to be on.

use std::ffi::c_int;

/// In which order the emulator runs the threads of a block between two barriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Ascending.
    Early,
    /// Descending.
    Late,
    /// Shuffled by this seed, anew after every barrier.
    Random(u64),
}

impl Schedule {
    /// The emulator's number and seed.
    pub(super) fn mode(self) -> (c_int, u64) {
        match self {
            Schedule::Early => (0, 1),
            Schedule::Late => (1, 1),
            Schedule::Random(seed) => (2, seed),
        }
    }
}

/// The machine that the emulated driver is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emulated {
    /// In which order threads run.
    pub schedule: Schedule,
    /// CUDA version of the driver: 1000 major + 10 minor.
    pub driver_version: i32,
    /// Clusters of a grid that run at a time, the others wait until one has ended; 0: all.
    pub resident_clusters: u32,
    /// Whether new memory starts as NaN; where nothing runs it may stay as it is.
    pub poisoned: bool,
}

impl Default for Emulated {
    fn default() -> Self {
        Self {
            schedule: Schedule::Early,
            driver_version: 13_000,
            resident_clusters: 0,
            poisoned: true,
        }
    }
}
