//! Memory of a CUDA device: allocations, and copies that stay inside them.

use super::{
    capture::Freed,
    cuda::{Allocation, Cuda},
    effort::{COPY, FILL, Launched},
};
use crate::error::{Error, Result};
use std::sync::{Arc, atomic::Ordering};

/// Device memory that is freed on drop.
#[derive(Debug)]
pub struct Memory {
    cuda: Arc<Cuda>,
    address: u64,
    bytes: usize,
}

impl Memory {
    /// Where it starts; 256-byte aligned.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.cuda.live().remove(&self.address);
        self.cuda.free(Freed::Device(self.address)); // kernels may still use it
    }
}

impl Cuda {
    /// The most memory that was allocated at a time so far, bytes.
    pub fn most_bytes(&self) -> usize {
        self.most_bytes.load(Ordering::Relaxed)
    }

    /// `bytes` of memory (at least 1), content undefined.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], or [`Error::Driver`].
    pub fn alloc(self: &Arc<Self>, bytes: usize) -> Result<Memory> {
        self.make_current()?;
        let address = match self.driver.mem_alloc(bytes.max(1)) {
            Ok(address) => address,
            Err(Error::Driver { code: 2, .. }) => {
                let used: usize = self.live().values().map(|a| a.bytes).sum();
                return Err(Error::OutOfMemory {
                    fix: super::cpu::OUT_OF_MEMORY_FIX.into(),
                    need_bytes: bytes as u64,
                    have_bytes: self.total_bytes.saturating_sub(used) as u64,
                    largest: format!("this allocation on {} ({})", self.name, self.chip),
                });
            }
            Err(e) => return Err(e),
        };
        let number = self.allocations.fetch_add(1, Ordering::Relaxed);
        let mut live = self.live();
        live.insert(address, Allocation { bytes: bytes.max(1), number });
        let now = live.values().map(|a| a.bytes).sum();
        drop(live);
        self.most_bytes.fetch_max(now, Ordering::Relaxed);
        Ok(Memory { cuda: self.clone(), address, bytes })
    }

    /// Copies host bytes to `address` and waits.
    ///
    /// # Errors
    /// [`Error::Plan`] when the range lies outside the live allocations; [`Error::Driver`].
    pub fn upload(&self, address: u64, data: &[u8]) -> Result<()> {
        self.inside("upload", address, data.len())?;
        self.make_current()?;
        if data.is_empty() {
            return Ok(());
        }
        self.driver.copy_to_device(address, data, self.stream)
    }

    /// Copies device bytes to the host, after everything launched so far.
    ///
    /// # Errors
    /// As [`Cuda::upload`], and what earlier launches failed with.
    pub fn download(&self, address: u64, data: &mut [u8]) -> Result<()> {
        self.inside("download", address, data.len())?;
        self.make_current()?;
        if data.is_empty() {
            return self.driver.stream_synchronize(self.stream);
        }
        self.driver.copy_to_host(data, address, self.stream)
    }

    /// Copies within the device, in stream order.
    ///
    /// # Errors
    /// As [`Cuda::upload`].
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.inside("copy: target", to, bytes)?;
        self.inside("copy: source", from, bytes)?;
        self.make_current()?;
        if bytes == 0 {
            return Ok(());
        }
        self.watch.remember(|| Launched::driver(COPY, 2 * bytes));
        self.driver.copy_on_device(to, from, bytes, self.stream)
    }

    /// Sets every byte to `value`, in stream order: 0xFF makes f32 NaN.
    ///
    /// # Errors
    /// As [`Cuda::upload`].
    pub fn fill(&self, address: u64, bytes: usize, value: u8) -> Result<()> {
        self.inside("fill", address, bytes)?;
        self.make_current()?;
        if bytes == 0 {
            return Ok(());
        }
        self.watch.remember(|| Launched::driver(FILL, bytes));
        self.driver.fill(address, value, bytes, self.stream)
    }

    /// Refuses a range that no single allocation holds; an empty range is always inside.
    pub(super) fn inside(&self, at: &str, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let live = self.live();
        let holder = live.range(..=address).next_back();
        let left = holder.and_then(|(start, a)| {
            usize::try_from(address - start).ok().and_then(|offset| a.bytes.checked_sub(offset))
        });
        if left.is_some_and(|left| bytes <= left) {
            if let (Some(captured), Some((start, a))) = (&mut *self.captured(), holder) {
                captured.touched.insert((*start, a.number));
            }
            return Ok(());
        }
        Err(Error::Plan {
            at: at.into(),
            problem: format!(
                "{bytes} bytes at {address:#x} lie outside every live allocation of {}; \
                 {} bytes are left there; a buffer is too small or was freed",
                self.name,
                left.unwrap_or(0)
            ),
        })
    }
    /// Refuses when one of these allocations was freed.
    pub(super) fn still_live(&self, allocations: &[(u64, u64)]) -> Result<()> {
        let live = self.live();
        let gone =
            |(start, number): &&(u64, u64)| live.get(start).is_none_or(|a| a.number != *number);
        match allocations.iter().find(gone) {
            None => Ok(()),
            Some((start, _)) => Err(Error::Plan {
                at: "graph".into(),
                problem: format!(
                    "the memory at {start:#x} that it touches was freed; keep it as long as the graph"
                ),
            }),
        }
    }
}
