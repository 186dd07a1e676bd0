//! What a device remembers while its launches are captured.

use std::collections::BTreeSet;

/// A capture under way.
#[derive(Debug, Default)]
pub(super) struct Capture {
    /// The allocations that captured launches touched so far: address and number.
    pub touched: BTreeSet<(u64, u64)>,
    /// Memory that was dropped meanwhile.
    pub freed: Vec<Freed>,
}

/// The capture of a device's stream, if there is one.
pub(super) type Captured = Option<Capture>;

/// Memory that nobody owns any more.
#[derive(Clone, Copy, Debug)]
pub(super) enum Freed {
    /// Of the device.
    Device(u64),
    /// Page-locked, of the host: its address.
    Host(usize),
}
