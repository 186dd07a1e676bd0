//! One aligned block of host memory, lent out as disjoint ranges.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::Range;

/// What helps against too little memory when nothing better is known.
pub const OUT_OF_MEMORY_FIX: &str =
    "use a smaller batch or resolution, or recompute activations (checkpoint)";

/// Every offset in an arena is a multiple of this, in bytes.
pub const ALIGN_BYTES: usize = 64;

/// A zeroed, 64-byte aligned block; pages are touched on first use.
#[derive(Debug)]
pub struct HostArena {
    base: *mut u8,
    len: usize,
}

// SAFETY: the block is owned, and every access goes through `&self` or `&mut self`.
unsafe impl Send for HostArena {}
// SAFETY: as above; `&self` only reads.
unsafe impl Sync for HostArena {}

impl HostArena {
    /// A block of `len` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the system cannot give it; `largest` is put into the message.
    pub fn new(len: usize, largest: &str) -> Result<Self> {
        let have = available_bytes();
        let refuse = || Error::OutOfMemory {
            need_bytes: len as u64,
            have_bytes: have.unwrap_or(0),
            largest: largest.to_string(),
            fix: OUT_OF_MEMORY_FIX.into(),
        };
        if have.is_some_and(|have| len as u64 > have) {
            return Err(refuse());
        }
        let layout = Self::layout(len).ok_or_else(refuse)?;
        // SAFETY: `layout` has a size of at least ALIGN_BYTES.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return Err(refuse());
        }
        Ok(Self { base, len })
    }

    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.max(ALIGN_BYTES), ALIGN_BYTES).ok()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of `range`.
    pub fn read(&self, range: &Range<usize>) -> &[u8] {
        self.check(range);
        // SAFETY: inside the block (checked); shared borrow of self.
        unsafe { std::slice::from_raw_parts(self.base.add(range.start), range.len()) }
    }

    /// The bytes of `range`, to write.
    pub fn write(&mut self, range: &Range<usize>) -> &mut [u8] {
        self.check(range);
        // SAFETY: inside the block (checked); unique borrow of self.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(range.start), range.len()) }
    }

    /// Slices to read and slices to write at the same time.
    ///
    /// # Panics
    /// When a written range overlaps any other range: a bug of the plan.
    pub fn lend(
        &mut self,
        reads: &[Range<usize>],
        writes: &[Range<usize>],
    ) -> (Vec<&[u8]>, Vec<&mut [u8]>) {
        let apart = |a: &Range<usize>, b: &Range<usize>| {
            a.is_empty() || b.is_empty() || a.end <= b.start || b.end <= a.start
        };
        for (i, w) in writes.iter().enumerate() {
            let clash = reads.iter().chain(&writes[i + 1..]).any(|r| !apart(w, r));
            assert!(!clash, "plan: two live buffers overlap");
        }
        reads.iter().chain(writes).for_each(|r| self.check(r));
        let base = self.base;
        // SAFETY: all ranges lie inside the block, and every written range is disjoint from all
        // others (both checked above); the borrows live as long as the unique borrow of self.
        unsafe {
            let read = |r: &Range<usize>| std::slice::from_raw_parts(base.add(r.start), r.len());
            let write =
                |r: &Range<usize>| std::slice::from_raw_parts_mut(base.add(r.start), r.len());
            (reads.iter().map(read).collect(), writes.iter().map(write).collect())
        }
    }

    fn check(&self, r: &Range<usize>) {
        assert!(r.start <= r.end && r.end <= self.len, "plan: a buffer lies outside the arena");
    }
}

impl Drop for HostArena {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { dealloc(self.base, layout) }
        }
    }
}

/// Memory that can still be had without swapping, in bytes; `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disjoint_ranges_are_lent_and_overlap_is_refused() {
        let mut arena = HostArena::new(256, "").unwrap();
        let (low, middle, high) = (0..64, 64..128, 32..96);
        {
            let reads = [low.clone(), low.clone()];
            let (r, mut w) = arena.lend(&reads, std::slice::from_ref(&middle));
            w[0].fill(7);
            assert!(r[0].iter().all(|b| *b == 0) && r.len() == 2);
        }
        assert_eq!(arena.read(&middle), [7; 64]);
        let clash = std::panic::AssertUnwindSafe(|| {
            drop(arena.lend(std::slice::from_ref(&low), std::slice::from_ref(&high)));
        });
        assert!(std::panic::catch_unwind(clash).is_err());
    }
}
