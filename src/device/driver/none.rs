//! No driver at all: every call succeeds, nothing is stored and nothing runs.

use super::{Code, Driver, Table};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

/// Allocations start at multiples of this, as the driver's do.
const ALIGN: u64 = 256;
/// The next address; no memory stands behind any of them.
static NEXT: AtomicU64 = AtomicU64::new(1 << 40);

unsafe extern "C" fn one_device(count: *mut c_int) -> Code {
    // SAFETY: the caller passes a place for one number.
    unsafe { *count = 1 };
    0
}

unsafe extern "C" fn next_address(address: *mut u64, bytes: usize) -> Code {
    let room = (bytes as u64).next_multiple_of(ALIGN);
    // SAFETY: the caller passes a place for one address.
    unsafe { *address = NEXT.fetch_add(room, Ordering::Relaxed) };
    0
}

/// Out of memory: what is allocated here the host would write to.
unsafe extern "C" fn no_host_memory(_: *mut *mut c_void, _: usize, _: c_uint) -> Code {
    2
}

impl Driver {
    /// A driver of one device whose memory has addresses and no content.
    pub fn none() -> Self {
        let table = Table {
            device_count: one_device,
            mem_alloc: next_address,
            host_alloc: no_host_memory,
            ..Table::idle()
        };
        Self { table, library: None }
    }
}
