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

/// First step, end, and whether the trainables' gradients start anew.
pub(super) type Stretch = (usize, usize, bool);

/// Every stretch that ran.
pub(super) type Replays = HashMap<Stretch, Replay>;
