//! Host memory that a device copies to and from without an intermediate buffer.

use super::{Cuda, capture::Freed, graph::Event};
use crate::error::{Error, Result};
use std::{ops::Range, sync::Arc};

/// Page-locked bytes, zero at first; freed on drop.
#[derive(Debug)]
pub struct Pinned {
    cuda: Arc<Cuda>,
    start: *mut u8,
    bytes: usize,
    /// When the last copy has ended.
    copied: Option<Event>,
}

// SAFETY: the memory belongs to this value alone, and the driver frees it from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared access only tells the size.
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
    /// To read, once the last copy has ended.
    ///
    /// # Errors
    /// What earlier launches failed with.
    pub fn read(&mut self) -> Result<&[u8]> {
        self.write().map(|bytes| &*bytes)
    }

    /// To write, once the last copy has ended.
    ///
    /// # Errors
    /// What earlier launches failed with.
    pub fn write(&mut self) -> Result<&mut [u8]> {
        if let Some(event) = &self.copied {
            event.wait()?;
        }
        Ok(self.all())
    }

    fn all(&mut self) -> &mut [u8] {
        // SAFETY: initialised at its allocation, borrowed exclusively, freed only on drop; a copy that is under way is
        // the driver's, and nobody reads or writes before `write` has waited for it.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }

    /// Copies everything to `address` in stream order, without waiting.
    ///
    /// # Errors
    /// [`Error::Plan`] when the range lies outside the live allocations; those of the driver.
    pub fn upload(&mut self, address: u64) -> Result<()> {
        self.cuda.inside("upload", address, self.bytes)?;
        self.cuda.make_current()?;
        if self.bytes == 0 {
            return Ok(());
        }
        let (driver, stream) = (&self.cuda.driver, self.cuda.stream);
        // SAFETY: as `all`; only read here.
        let all = unsafe { std::slice::from_raw_parts(self.start, self.bytes) };
        driver.copy_later(address, all, stream)?;
        self.mark()
    }

    /// Copies what lies at `address` to the bytes `to` of this memory in stream order, without waiting.
    ///
    /// # Errors
    /// [`Error::Plan`] for bytes that are not there, or an address outside the live allocations; those of the driver.
    pub fn fetch(&mut self, to: Range<usize>, address: u64) -> Result<()> {
        self.cuda.inside("fetch", address, to.len())?;
        let cuda = self.cuda.clone();
        cuda.make_current()?;
        let (bytes, problem) = (self.bytes, format!("bytes {to:?} of {}", self.bytes));
        if to.start > to.end || to.end > bytes {
            return Err(Error::Plan { at: "fetch".into(), problem });
        }
        if to.is_empty() {
            return Ok(());
        }
        cuda.driver.fetch_later(&mut self.all()[to], address, cuda.stream)?;
        self.mark()
    }

    fn mark(&mut self) -> Result<()> {
        let event = match self.copied.take() {
            Some(event) => event,
            None => self.cuda.event()?,
        };
        event.record()?;
        self.copied = Some(event);
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.cuda.free(Freed::Host(self.start as usize)); // a copy may be under way
    }
}
