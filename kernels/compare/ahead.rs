//! The CPU's results computed ahead of their use, on all cores.

use super::Reference;
use crate::{error::Result, kernels::case::Case, tensor::DType};
use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Results that may wait for each thread.
const AHEAD: usize = 4;

/// What the threads share.
struct Shared<'a> {
    /// Results by case; taken out when used.
    slots: Vec<Option<Result<Reference<'a>>>>,
    next: usize,
    used: usize,
    busy: Duration,
}

/// Hands out references in the order of their cases while others are computed.
struct Queue<'a> {
    shared: Mutex<Shared<'a>>,
    changed: Condvar,
}

impl<'a> Queue<'a> {
    fn lock(&self) -> MutexGuard<'_, Shared<'a>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Computes until there is nothing left.
    fn work(&self, cases: &[&'a Case], dtypes: &[DType], window: usize) {
        loop {
            let mut shared = self.lock();
            while shared.next < cases.len() && shared.next >= shared.used + window {
                shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
            }
            let i = shared.next;
            let Some(case) = cases.get(i) else { return };
            shared.next += 1;
            drop(shared);
            let begin = Instant::now();
            let reference = Reference::of(case, dtypes);
            let mut shared = self.lock();
            shared.busy += begin.elapsed();
            shared.slots[i] = Some(reference);
            self.changed.notify_all();
        }
    }

    fn take(&self, i: usize) -> Result<Reference<'a>> {
        let mut shared = self.lock();
        loop {
            if let Some(reference) = shared.slots[i].take() {
                shared.used = i + 1;
                self.changed.notify_all();
                return reference;
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets the threads end, whatever is left.
    fn stop(&self) {
        let mut shared = self.lock();
        shared.next = usize::MAX;
        self.changed.notify_all();
    }
}

/// Calls `each` with every case's number and reference in turn, while the next ones are computed. Returns the time
/// that the computing took, summed over the threads.
///
/// # Errors
/// The first of `each` or of an operation on the CPU; nothing is done after it.
pub fn for_each_reference<'a>(
    cases: &[&'a Case],
    dtypes: &[DType],
    mut each: impl FnMut(usize, &Reference<'a>) -> Result<()>,
) -> Result<Duration> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get());
    let slots = cases.iter().map(|_| None).collect();
    let shared = Shared { slots, next: 0, used: 0, busy: Duration::ZERO };
    let queue = Queue { shared: Mutex::new(shared), changed: Condvar::new() };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| queue.work(cases, dtypes, AHEAD * threads));
        }
        let mut run = || (0..cases.len()).try_for_each(|i| each(i, &queue.take(i)?));
        let done = run();
        queue.stop();
        done
    })?;
    let busy = queue.lock().busy;
    Ok(busy)
}
