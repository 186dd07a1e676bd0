//! Record once, plan once, replay.
//!
//! Model code records operations on symbolic [`Value`]s; [`Recorder::plan`] decides which values need a
//! gradient, in which mode each gradient is written, how long each buffer lives, where it lies in one
//! arena and which segments are recomputed; the [`Program`] is a flat list of steps over fixed addresses.

mod buffers;
mod build;
mod explain;
mod flat;
mod fuse;
mod join;
mod layout;
mod limits;
mod memory;
mod operands;
mod passing;
mod program;
mod record;
mod rehearse;
mod replay;
mod run;
mod trace;
mod transfer;
mod weights;

pub use build::{Pass, PlanOptions};
pub use explain::Summary;
pub use flat::{Flat, FlatOnDevice};
pub use layout::{Unpadded, WeightLayout};
pub use program::Program;
pub use record::{ParamInfo, Recorder, Value};
pub use rehearse::{NoWeights, Rehearsed};
pub use trace::{Roofline, Traced, trace_json};
pub use weights::{StoredBytes, WeightSource, rounded};

use crate::op::{GradMode, Keeps};
use buffers::Buffer;
use memory::Places;
use record::Node;

/// What one step does with its node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// The forward pass of a node.
    Forward,
    /// A forward step repeated for the backward pass of its segment.
    Again,
    /// Puts the given gradient of output `index` (or 1 for a loss, or its scale) into its gradient buffer.
    Seed {
        /// Index into the outputs; the loss has none.
        output: Option<usize>,
        /// Overwrite, or add when two outputs are views of one value.
        mode: GradMode,
    },
    /// Converts the f32 master weights to the element type of the parameters.
    Shadow,
    /// Adds the trainables' gradients of this pass to the f32 gradient, or starts it anew.
    Collect,
    /// The backward pass of a node.
    Backward {
        /// What it reads of forward.
        keeps: Keeps,
        /// How it writes each input gradient.
        modes: Vec<GradMode>,
    },
}

/// One line of the program.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// Index of the node; for a seed the index of the seeded value; 0 for what concerns all trainables.
    pub node: usize,
    /// What is done.
    pub action: Action,
}

/// A planned recording: every step and every address, no memory yet.
#[derive(Debug)]
pub struct Plan {
    pub(crate) rec: Recorder,
    pub(crate) nodes: Vec<Node>,
    pub(crate) steps: Vec<Step>,
    /// Steps before this one run only when a steady input was fed anew (see [`Recorder::steady`]).
    pub(crate) once_steps: usize,
    /// Steps before this one are the forward pass.
    pub(crate) forward_steps: usize,
    pub(crate) outputs: Vec<(String, Value)>,
    pub(crate) loss: Option<Value>,
    pub(crate) places: Places,
    pub(crate) poison: bool,
    /// Values produced inside a recomputed segment and used only there.
    pub(crate) inner: std::collections::HashMap<usize, usize>,
}

impl Plan {
    /// The buffer a step of `action` reads for `value` of the recording.
    pub(crate) fn read_of(&self, step: &Step, value: Value) -> Buffer {
        buffers::read_buffer(&self.rec, &self.nodes, &self.inner, step, value)
    }
}
