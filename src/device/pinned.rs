//! Host memory that a device copies from without an intermediate buffer.

use super::{Cuda, capture::Freed, graph::Event};
use crate::error::Result;
use std::sync::Arc;

/// Page-locked bytes, zero at first; freed on drop.
#[derive(Debug)]
pub struct Pinned {
    cuda: Arc<Cuda>,
    start: *mut u8,
    bytes: usize,
    copied: Option<Event>,
}

// SAFETY: the memory belongs to this value alone, and the driver frees it from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared access only reads.
unsafe impl Sync for Pinned {}

impl Cuda {
    /// `bytes` of page-locked host memory.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned> {
        self.make_current()?;
        let start = self.driver.host_alloc(bytes.max(1))?;
        // SAFETY: the driver has just returned this many writable bytes.
        unsafe { start.write_bytes(0, bytes.max(1)) };
        Ok(Pinned { cuda: self.clone(), start, bytes, copied: None })
    }
}

impl Pinned {
    /// To read.
    pub fn read(&self) -> &[u8] {
        // SAFETY: initialised at its allocation, exclusively owned, freed only on drop.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// To write, once the last copy from it has ended.
    ///
    /// # Errors
    /// What earlier launches failed with.
    pub fn write(&mut self) -> Result<&mut [u8]> {
        if let Some(event) = &self.copied {
            event.wait()?;
        }
        // SAFETY: as `read`, borrowed exclusively, and no copy is under way.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) })
    }

    /// Copies everything to `address` in stream order, without waiting.
    ///
    /// # Errors
    /// [`crate::error::Error::Plan`] when the range lies outside the live allocations; those of the driver.
    pub fn upload(&mut self, address: u64) -> Result<()> {
        self.cuda.inside("upload", address, self.bytes)?;
        self.cuda.make_current()?;
        if self.bytes == 0 {
            return Ok(());
        }
        let event = match self.copied.take() {
            Some(event) => event,
            None => self.cuda.event()?,
        };
        self.cuda.driver.copy_later(address, self.read(), self.cuda.stream)?;
        event.record()?;
        self.copied = Some(event);
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.cuda.free(Freed::Host(self.start as usize)); // a copy from it may be under way
    }
}
