//! Memory for many weights in few large blocks.

use crate::{
    error::{Error, Result},
    tensor::Floats,
};
use memmap2::{MmapOptions, MmapRaw};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Length of a block, bytes; a larger piece has a block of its own. Pages are touched on first use.
const BLOCK_BYTES: usize = 256 << 20;

/// Every piece starts at a multiple of this, bytes.
const PIECE_ALIGN: usize = 64;

/// Hands out pieces of blocks; a block goes back to the system with the last of its pieces.
///
/// A piece's pages are asked for in one call, on the thread that fills it: faults one by one cost 0.5 s a
/// gigabyte where this costs 0.35 (a virtual machine, kernel 6.18). Huge pages (`MADV_HUGEPAGE`) were tried and
/// cost 1 to 8 s there, because the host does not have such memory at hand; a system that always gives them
/// gives them here too.
#[derive(Debug, Default)]
pub struct Pool {
    open: Mutex<(Weak<MmapRaw>, usize)>,
}

/// A piece that was filled and is only read from now on.
struct Piece {
    block: Arc<MmapRaw>,
    at: usize,
    len: usize,
}

impl AsRef<[f32]> for Piece {
    fn as_ref(&self) -> &[f32] {
        let start = self.block.as_ptr().wrapping_add(self.at).cast();
        // SAFETY: `Pool::take` gave out this range of the block once, aligned, and nobody writes it since
        // `Pool::make` filled it; the block lives as long as the piece.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

impl Pool {
    /// `len` elements that `fill` writes; they are zero before.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; those of `fill`.
    pub fn make(&self, len: usize, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Floats> {
        let bytes = len * size_of::<f32>();
        let (block, at) = self.take(bytes)?;
        #[cfg(target_os = "linux")]
        let _ = block.advise_range(memmap2::Advice::PopulateWrite, at, bytes); // else on first use
        let start = block.as_mut_ptr().wrapping_add(at).cast();
        // SAFETY: `take` gives out every range of a block once, inside it and aligned, so this is the only
        // reference to it; a new block is zeroed.
        fill(unsafe { std::slice::from_raw_parts_mut(start, len) })?;
        Ok(Floats::new(Piece { block, at, len }))
    }

    /// A range of `bytes` that nobody else has: its block and where it starts.
    fn take(&self, bytes: usize) -> Result<(Arc<MmapRaw>, usize)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = open.0.upgrade().filter(|b| b.len() - open.1 >= bytes) {
            let at = open.1;
            open.1 = (at + bytes).next_multiple_of(PIECE_ALIGN).min(block.len());
            return Ok((block, at));
        }
        let block = Arc::new(block(bytes.max(BLOCK_BYTES))?);
        if bytes < BLOCK_BYTES {
            *open = (Arc::downgrade(&block), bytes.next_multiple_of(PIECE_ALIGN));
        }
        Ok((block, 0))
    }
}

/// Zeroed pages from the system.
fn block(bytes: usize) -> Result<MmapRaw> {
    let map = MmapOptions::new().len(bytes).map_anon().map_err(|_| Error::OutOfMemory {
        need_bytes: bytes as u64,
        have_bytes: super::cpu::available_bytes().unwrap_or(0),
        largest: "weights".into(),
        fix: "use a smaller base, or free memory".into(),
    })?;
    Ok(MmapRaw::from(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn pieces_made_at_once_share_blocks_and_keep_their_numbers() {
        let pool = Pool::default();
        let make = |i: usize| {
            let fill = |out: &mut [f32]| {
                assert!(out.iter().all(|v| *v == 0.0));
                out.fill(i as f32);
                Ok(())
            };
            pool.make(1000 + i, fill).unwrap()
        };
        let all: Vec<Floats> = (0..200).into_par_iter().map(make).collect();
        for (i, piece) in all.iter().enumerate() {
            assert_eq!(piece.len(), 1000 + i);
            assert!(piece.iter().all(|v| *v == i as f32));
            assert_eq!(piece.as_ptr() as usize % PIECE_ALIGN, 0);
        }
        let block = pool.open.lock().unwrap().0.clone();
        assert_eq!(block.strong_count(), all.len(), "one block holds them all");
        drop(all);
        assert!(block.upgrade().is_none(), "and goes with the last of them");
        assert_eq!(make(3)[..], [3.0; 1003], "the next one is zeroed memory again");
    }

    fn filled(out: &mut [f32], value: f32) -> Result<()> {
        out.fill(value);
        Ok(())
    }

    #[test]
    fn a_piece_larger_than_a_block_has_its_own() {
        let pool = Pool::default();
        let small = pool.make(8, |out| filled(out, 1.0)).unwrap();
        let large = pool.make(BLOCK_BYTES / 4 + 1, |out| filled(out, 2.0)).unwrap();
        let next = pool.make(8, |out| filled(out, 3.0)).unwrap();
        assert_eq!((small[7], large[BLOCK_BYTES / 4], next[0]), (1.0, 2.0, 3.0));
        assert_eq!(next.as_ptr() as usize - small.as_ptr() as usize, PIECE_ALIGN);
        assert!(pool.make(usize::MAX / 8, |_| Ok(())).is_err(), "no such memory");
    }
}
