//! The stretches of memory that a plan places, and which of them a step reads.

use super::{Action, Recorder, Step, Value, record::Node};
use std::collections::HashMap;

/// A stretch of memory with a life of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Buffer {
    /// A forward value.
    Value(usize),
    /// A forward value computed again for the backward pass of its segment.
    Again(usize),
    /// The gradient of a value.
    Grad(usize),
    /// The gradient of output number `i`, given by the caller.
    Seed(usize),
    /// The number from which the gradient of a loss starts: 1, or the scale of the loss.
    Start,
    /// Scratch of one step.
    Scratch(usize),
    /// All trainables together.
    Flat(Flats),
}

/// The flat buffers of the trainables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Flats {
    /// f32 master weights.
    Master,
    /// f32 gradient, summed over the passes of a step.
    Grad,
    /// What the operations read, in the element type of the parameters; only where that is not f32.
    Shadow,
    /// What the operations write in one pass; as above.
    PassGrad,
}

/// Forward values that a backward step reads.
pub(super) fn kept_values(nodes: &[Node], step: &Step) -> Vec<Value> {
    let Action::Backward { keeps, .. } = &step.action else { return vec![] };
    let n = &nodes[step.node];
    let mut v: Vec<Value> = keeps.ins.iter().filter_map(|i| n.ins.get(*i).copied()).collect();
    if keeps.out {
        v.push(n.out);
    }
    if keeps.saved {
        v.extend(&n.saved);
    }
    v
}

/// The buffer of a value's gradient.
pub(super) fn grad_buffer(rec: &Recorder, value: Value) -> Buffer {
    Buffer::Grad(rec.slots[rec.slots[value.0].root].grad)
}

/// The buffer that `step` uses for the forward value `value`.
pub(super) fn read_buffer(
    rec: &Recorder,
    nodes: &[Node],
    inner: &HashMap<usize, usize>,
    step: &Step,
    value: Value,
) -> Buffer {
    let r = rec.slots[value.0].root;
    let late = matches!(step.action, Action::Again | Action::Backward { .. });
    match inner.get(&r) {
        Some(s) if late && nodes[step.node].segment == Some(*s) => Buffer::Again(r),
        _ => Buffer::Value(r),
    }
}
