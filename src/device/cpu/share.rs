//! Work shared between threads without allocation.

use rayon::prelude::*;
use std::sync::{Mutex, PoisonError};

/// Threads of the pool this thread belongs to.
pub fn pool_size() -> usize {
    rayon::current_num_threads().max(1)
}

/// Calls `f` once for each item, from as many threads as `scratch` has pieces of `piece` elements.
///
/// Threads take the next item when they are done with one, so a slow core takes fewer. The results may
/// not depend on who takes what: each item owns what it writes.
pub fn share<T: Send>(
    items: impl Iterator<Item = T> + Send,
    scratch: &mut [f32],
    piece: usize,
    f: impl Fn(T, &mut [f32]) + Sync,
) {
    let piece = piece.max(1);
    if scratch.len() < 2 * piece {
        items.for_each(|item| f(item, scratch));
        return;
    }
    let queue = Mutex::new(items);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    scratch.par_chunks_exact_mut(piece).for_each(|scratch| {
        while let Some(item) = next() {
            f(item, scratch);
        }
    });
}

/// Work below which a second thread costs more than it brings (a hand-over takes about 10 us).
const SOLO_FLOP: f64 = 4e6;

/// The part of `scratch` to give to [`share`]: one piece for little work, else one for each thread.
pub fn pieces(scratch: &mut [f32], piece: usize, flop: f64) -> &mut [f32] {
    let threads = if flop < SOLO_FLOP { 1 } else { pool_size() };
    let len = scratch.len().min(threads * piece);
    &mut scratch[..len]
}
