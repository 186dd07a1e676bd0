//! Captured launches and events on the device's stream.

use super::{
    Cuda,
    capture::{Capture, Captured, Freed},
    driver::Handle,
};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

/// Launches that run again with one call. It remembers which allocations they touch and refuses to run when
/// one of them is gone.
#[derive(Debug)]
pub struct Graph {
    cuda: Arc<Cuda>,
    exec: Handle,
    allocations: Vec<(u64, u64)>,
}

impl Cuda {
    /// Records what `work` launches instead of running it. `work` may neither copy between host and device
    /// nor wait nor allocate on the stream; kernels, device copies and fills are recorded.
    ///
    /// # Errors
    /// Those of `work`, after which the stream is usable again; [`Error::Plan`] inside another capture;
    /// [`Error::Driver`].
    pub fn capture(self: &Arc<Self>, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.make_current()?;
        {
            let mut captured = self.captured();
            if captured.is_some() {
                let problem = "a capture inside a capture".into();
                return Err(Error::Plan { at: "capture".into(), problem });
            }
            self.driver.capture_begin(self.stream)?;
            *captured = Some(Capture::default());
        }
        let recording = Recording { cuda: self, ended: false };
        work()?; // a failure ends the capture in the drop of `recording`
        let (graph, allocations) = recording.end()?;
        let exec = self.driver.graph_instantiate(graph);
        self.driver.graph_destroy(graph);
        Ok(Graph {
            cuda: self.clone(),
            exec: exec?,
            allocations: allocations.into_iter().collect(),
        })
    }

    /// Frees memory when the stream has passed everything that may use it. To wait for the stream would
    /// invalidate a capture, so what is dropped during one is freed at its end.
    pub(super) fn free(&self, memory: Freed) {
        let mut captured = self.captured(); // held: no capture begins meanwhile
        match &mut *captured {
            Some(capture) => capture.freed.push(memory),
            None => self.free_now(&[memory]),
        }
    }

    fn free_now(&self, memory: &[Freed]) {
        if memory.is_empty() || self.make_current().is_err() {
            return;
        }
        let _ = self.driver.stream_synchronize(self.stream);
        for one in memory {
            match *one {
                Freed::Device(address) => self.driver.mem_free(address),
                Freed::Host(start) => self.driver.host_free(start as *mut u8),
            }
        }
    }

    pub(super) fn captured(&self) -> std::sync::MutexGuard<'_, Captured> {
        self.captured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A point in the stream, reached when everything launched so far has ended.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn event(self: &Arc<Self>) -> Result<Event> {
        self.make_current()?;
        let event = Event { cuda: self.clone(), handle: self.driver.event_create()? };
        event.record()?;
        Ok(event)
    }
}

/// A capture that ends exactly once.
struct Recording<'a> {
    cuda: &'a Cuda,
    ended: bool,
}

impl Recording<'_> {
    fn end(mut self) -> Result<(Handle, BTreeSet<(u64, u64)>)> {
        self.ended = true;
        self.cuda.make_current()?;
        let graph = self.cuda.driver.capture_end(self.cuda.stream);
        let capture = self.cuda.captured().take().unwrap_or_default();
        self.cuda.free_now(&capture.freed);
        Ok((graph?, capture.touched))
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if self.cuda.make_current().is_ok()
            && let Ok(graph) = self.cuda.driver.capture_end(self.cuda.stream)
            && graph != 0
        {
            self.cuda.driver.graph_destroy(graph);
        }
        let capture = self.cuda.captured().take().unwrap_or_default();
        self.cuda.free_now(&capture.freed);
    }
}

impl Graph {
    /// Runs everything captured, in the device's stream; returns before it ends.
    ///
    /// # Errors
    /// [`Error::Plan`] when memory that it touches was freed; [`Error::Driver`].
    pub fn launch(&self) -> Result<()> {
        self.cuda.still_live(&self.allocations)?;
        self.cuda.make_current()?;
        let launched = self.cuda.driver.graph_launch(self.exec, self.cuda.stream);
        self.cuda.after_launch(launched)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.cuda.make_current().is_ok() {
            self.cuda.driver.graph_exec_destroy(self.exec);
        }
    }
}

/// A point in the stream with its time.
#[derive(Debug)]
pub struct Event {
    cuda: Arc<Cuda>,
    handle: Handle,
}

impl Event {
    /// Moves it to the present end of the stream.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn record(&self) -> Result<()> {
        self.cuda.make_current()?;
        self.cuda.driver.event_record(self.handle, self.cuda.stream)
    }

    /// Waits until the stream has reached it.
    ///
    /// # Errors
    /// What earlier launches failed with.
    pub fn wait(&self) -> Result<()> {
        self.cuda.make_current()?;
        self.cuda.driver.event_synchronize(self.handle)
    }

    /// Milliseconds from `earlier` to this, about 0.5 us exact; waits for both.
    ///
    /// # Errors
    /// Those of the driver.
    pub fn elapsed_ms_since(&self, earlier: &Event) -> Result<f32> {
        earlier.wait()?;
        self.wait()?;
        self.cuda.driver.event_elapsed_ms(earlier.handle, self.handle)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.cuda.make_current().is_ok() {
            self.cuda.driver.event_destroy(self.handle);
        }
    }
}
