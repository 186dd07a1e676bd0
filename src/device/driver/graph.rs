//! Calls about stream capture, graphs and events.

use super::{Driver, Handle};
use crate::error::Result;
use cudarc::driver::sys;
use std::ffi::c_uint;

/// Nothing is forbidden to this thread meanwhile: a kernel may be loaded at its first, captured launch.
const RELAXED: c_uint = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED as c_uint;
const EVENT_DEFAULT: c_uint = sys::CUevent_flags_enum::CU_EVENT_DEFAULT as c_uint;

impl Driver {
    pub fn capture_begin(&self, stream: Handle) -> Result<()> {
        // SAFETY: a live stream.
        self.ok("cuStreamBeginCapture", unsafe { (self.table.capture_begin)(stream, RELAXED) })
    }

    /// Ends a capture; the graph of what was launched meanwhile.
    pub fn capture_end(&self, stream: Handle) -> Result<Handle> {
        let mut graph = 0;
        // SAFETY: a stream whose capture has begun; writes one handle.
        self.ok("cuStreamEndCapture", unsafe { (self.table.capture_end)(stream, &mut graph) })?;
        Ok(graph)
    }

    pub fn graph_instantiate(&self, graph: Handle) -> Result<Handle> {
        let mut exec = 0;
        // SAFETY: a live graph; writes one handle.
        let code = unsafe { (self.table.graph_instantiate)(&mut exec, graph, 0) };
        self.ok("cuGraphInstantiate", code)?;
        Ok(exec)
    }

    /// Launches everything captured. The caller has checked that the memory it touches is still there.
    pub fn graph_launch(&self, exec: Handle, stream: Handle) -> Result<()> {
        // SAFETY: an instantiated graph and a live stream.
        self.ok("cuGraphLaunch", unsafe { (self.table.graph_launch)(exec, stream) })
    }

    pub fn graph_exec_destroy(&self, exec: Handle) {
        // SAFETY: instantiated once, destroyed once by its owner's drop.
        unsafe { (self.table.graph_exec_destroy)(exec) };
    }

    pub fn graph_destroy(&self, graph: Handle) {
        // SAFETY: from `capture_end`, destroyed once.
        unsafe { (self.table.graph_destroy)(graph) };
    }

    pub fn event_create(&self) -> Result<Handle> {
        let mut event = 0;
        // SAFETY: writes one handle.
        let code = unsafe { (self.table.event_create)(&mut event, EVENT_DEFAULT) };
        self.ok("cuEventCreate", code)?;
        Ok(event)
    }

    pub fn event_record(&self, event: Handle, stream: Handle) -> Result<()> {
        // SAFETY: a live event and a live stream.
        self.ok("cuEventRecord", unsafe { (self.table.event_record)(event, stream) })
    }

    pub fn event_synchronize(&self, event: Handle) -> Result<()> {
        // SAFETY: a live event.
        self.ok("cuEventSynchronize", unsafe { (self.table.event_synchronize)(event) })
    }

    pub fn event_elapsed_ms(&self, from: Handle, to: Handle) -> Result<f32> {
        let mut ms = 0.0;
        // SAFETY: two live events; writes one float.
        let code = unsafe { (self.table.event_elapsed)(&mut ms, from, to) };
        self.ok("cuEventElapsedTime", code)?;
        Ok(ms)
    }

    pub fn event_destroy(&self, event: Handle) {
        // SAFETY: created once, destroyed once by its owner's drop.
        unsafe { (self.table.event_destroy)(event) };
    }
}
