//! What the optional second launcher has loaded, and whether launches go through it. Nothing without the feature
//! `cust`.

#[cfg(feature = "cust")]
mod through_cust {
    use cust::{context::Context, function::Function, stream::Stream};
    use std::{
        collections::HashMap,
        sync::{
            Mutex, OnceLock,
            atomic::{AtomicBool, Ordering},
        },
    };

    /// What cust has loaded on one device.
    pub struct Cust {
        pub stream: Stream,
        pub kernels: Mutex<HashMap<&'static str, Function<'static>>>,
        /// Held as long as the rest.
        #[expect(dead_code)]
        pub context: Context,
    }

    // SAFETY: handles of the driver, which may be used from any thread; the device makes its context current first.
    unsafe impl Send for Cust {}
    // SAFETY: as above; the table of kernels is behind a lock.
    unsafe impl Sync for Cust {}

    /// The second launcher of a device.
    #[derive(Default)]
    pub struct Second {
        /// Never dropped: it would call the driver library after it is gone.
        pub cust: OnceLock<&'static Cust>,
        on: AtomicBool,
    }

    impl Second {
        pub fn set_on(&self, on: bool) {
            self.on.store(on, Ordering::Relaxed);
        }

        /// The launcher to use now, if not the program's own.
        pub fn active(&self) -> Option<&Cust> {
            if self.on.load(Ordering::Relaxed) { self.cust.get().copied() } else { None }
        }
    }
}

#[cfg(feature = "cust")]
pub(super) use through_cust::{Cust, Second};

/// There is none.
#[cfg(not(feature = "cust"))]
#[derive(Default)]
pub(super) struct Second;
