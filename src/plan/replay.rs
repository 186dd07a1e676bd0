//! Stretches of a program as graphs of a GPU.

use crate::device::Graph;
use std::collections::HashMap;

/// How far a stretch of steps is on its way to a graph.
#[derive(Debug)]
pub(super) enum Replay {
    /// It ran once, step by step: its kernels are loaded.
    Stepped,
    /// It is captured.
    Captured(Graph),
}

/// What one graph holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stretch {
    /// First step.
    pub start: usize,
    /// The step after the last.
    pub end: usize,
    /// Whether the trainables' gradients start anew.
    pub first: bool,
    /// Whether something was launched after the steps.
    pub then: bool,
}

/// Every stretch that ran.
pub(super) type Replays = HashMap<Stretch, Replay>;
