//! The next batch is prepared while the step runs.

use std::{
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
};

use super::dataset::{Batch, Dataset};
use crate::error::{Error, Result};

/// Batches in order, made on a thread of its own; what they hold depends on step and pass alone.
#[derive(Debug)]
pub struct Loader {
    batches: Option<Receiver<Batch>>,
    worker: Option<JoinHandle<()>>,
}

impl Loader {
    /// Starts to make the batches of `steps`, `passes` a step, at most `ahead` of them waiting.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(
        data: Arc<Dataset>,
        steps: Range<u64>,
        passes: usize,
        ahead: usize,
    ) -> Result<Self> {
        let (sender, receiver) = sync_channel(ahead.max(1));
        let work = move || {
            for step in steps {
                for pass in 0..passes {
                    // The reader is gone: nobody wants the rest.
                    if sender.send(data.batch(step, pass)).is_err() {
                        return;
                    }
                }
            }
        };
        let worker = std::thread::Builder::new()
            .name("loader".into())
            .spawn(work)
            .map_err(Error::file("start a thread", "loader"))?;
        Ok(Self { batches: Some(receiver), worker: Some(worker) })
    }
}

impl Iterator for Loader {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        self.batches.as_ref()?.recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        drop(self.batches.take());
        if let Some(worker) = self.worker.take() {
            // A worker that panicked has told so on stderr; there is nothing to clean up after it.
            let _ = worker.join();
        }
    }
}
