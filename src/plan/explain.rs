//! A run is a list you can print.

use super::{
    Action, ParamInfo, Plan,
    buffers::{Buffer, grad_buffer},
    record::{Class, Slot},
};
use crate::{
    device::Device,
    op::{Cost, GradMode},
    tensor::{DType, Spec},
};
use serde::Serialize;
use std::collections::HashSet;
use std::fmt::Write as _;

/// Sizes and work of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Steps in all.
    pub steps: usize,
    /// Of these, steps that run only when a steady input was fed anew.
    pub once_steps: usize,
    /// Parameters recorded, trained ones included.
    pub parameters: usize,
    /// Trained parameters.
    pub trainable_parameters: usize,
    /// Elements they take: with the zeros that fill an adapter's rank up.
    pub trainable_elements: usize,
    /// Work of the forward pass, FLOP (2 per multiply-add), with what runs once.
    pub forward_flop: f64,
    /// Of it, what runs only when a steady input was fed anew.
    pub once_flop: f64,
    /// Work of the backward pass and of repeated forward steps, FLOP.
    pub backward_flop: f64,
    /// Frozen weights, bytes.
    pub weight_bytes: usize,
    /// Arena with activations, gradients, inputs and trainables, bytes.
    pub arena_bytes: usize,
    /// The arena without reuse, bytes.
    pub naive_bytes: usize,
}

impl Plan {
    /// Every parameter of the recording.
    pub fn params(&self) -> Vec<ParamInfo> {
        self.rec.params()
    }

    /// Elements of the input `name`; 0 when there is none.
    pub fn input_len(&self, name: &str) -> usize {
        let named = |s: &&Slot| s.name == name && matches!(s.class, Class::Input { .. });
        self.rec.slots.iter().find(named).map_or(0, |s| s.spec.len())
    }

    /// Arena size in bytes.
    pub fn arena_bytes(&self) -> usize {
        self.places.total_bytes
    }

    /// Sizes and work.
    pub fn summary(&self) -> Summary {
        // an empty sum of floats is -0.0
        let flop = |steps: &[super::Step]| steps.iter().fold(0.0, |sum, s| sum + self.cost(s).flop);
        let params = self.params();
        let own = |p: &ParamInfo| p.layout.elements(&p.dims);
        let trained = || params.iter().filter(|p| p.trainable);
        Summary {
            steps: self.steps.len(),
            once_steps: self.once_steps,
            parameters: params.iter().map(own).sum(),
            trainable_parameters: trained().map(own).sum(),
            trainable_elements: trained().map(|p| p.dims.iter().product::<usize>()).sum(),
            forward_flop: flop(&self.steps[..self.forward_steps]),
            once_flop: flop(&self.steps[..self.once_steps]),
            backward_flop: flop(&self.steps[self.forward_steps..]),
            weight_bytes: self.frozen_bytes(),
            arena_bytes: self.places.total_bytes,
            naive_bytes: self.places.naive_bytes,
        }
    }

    fn frozen_bytes(&self) -> usize {
        let frozen = |s: &&Slot| matches!(s.class, Class::Param { trainable: false, .. });
        self.rec.slots.iter().filter(frozen).map(|s| s.spec.bytes()).sum()
    }

    pub(super) fn cost(&self, step: &super::Step) -> Cost {
        let of = |node: usize| &self.nodes[node];
        match &step.action {
            Action::Seed { .. } => Cost::default(),
            Action::Shadow | Action::Collect => {
                let len = self.places.master.len() as f64;
                Cost { flop: 0.0, bytes: len * 1.5 }
            }
            Action::Forward | Action::Again => {
                let n = of(step.node);
                n.op.cost(&n.specs, &n.signature.out)
            }
            Action::Backward { modes, .. } => {
                let n = of(step.node);
                let wants: Vec<bool> = modes.iter().map(|m| *m != GradMode::Skip).collect();
                n.op.backward_cost(&n.specs, &n.signature.out, &wants)
            }
        }
    }

    /// The kernel variants of a step on a GPU; empty where there is no choice.
    pub(super) fn variant(&self, step: &super::Step, device: &Device) -> String {
        let (Device::Cuda(cuda), Some(n)) = (device, self.nodes.get(step.node)) else {
            return String::new();
        };
        let backward = match step.action {
            Action::Forward | Action::Again => false,
            Action::Backward { .. } => true,
            _ => return String::new(),
        };
        n.op.variant(cuda, &n.specs, &n.signature.out, backward)
    }

    /// The program as a table: step, pass, operation, scope, shapes, GFLOP, share, MB, arena offset, modes.
    pub fn explain(&self, device: &Device) -> String {
        let s = self.summary();
        let total = (s.forward_flop + s.backward_flop).max(1.0);
        let mut text = String::new();
        for (t, step) in self.steps.iter().enumerate() {
            let cost = self.cost(step);
            if let Action::Seed { mode, .. } = &step.action {
                let _ = writeln!(text, "{t:>5} seed  {} {mode:?}", self.rec.slots[step.node].name);
                continue;
            }
            if let Action::Shadow | Action::Collect = &step.action {
                let what = match step.action {
                    Action::Shadow => "master weights to their shadow",
                    _ => "gradients of this pass to the f32 gradient",
                };
                let _ = writeln!(text, "{t:>5} cast  {what}  {:.2} MB", cost.bytes / 1e6);
                continue;
            }
            let n = &self.nodes[step.node];
            let (pass, out, modes) = match &step.action {
                Action::Backward { modes, .. } => {
                    let list: String = modes.iter().map(|m| letter(*m)).collect();
                    ("bwd", grad_buffer(&self.rec, n.out), format!("  d[{list}]"))
                }
                Action::Again => ("again", self.read_of(step, n.out), String::new()),
                _ if t < self.once_steps => ("once", Buffer::Value(n.out.0), String::new()),
                _ => ("fwd", Buffer::Value(n.out.0), String::new()),
            };
            let ins: Vec<String> = n.specs.iter().map(|s| self.operand(s)).collect();
            let at = self.places.at.get(&out).map_or(0, |r| r.start);
            let _ = writeln!(
                text,
                "{t:>5} {pass:<5} {:<12} {:<44} {} -> {:?}  {:.3} GFLOP {:.1} %  {:.2} MB  @{at}{modes} {} {}",
                n.op.name(),
                n.scope,
                ins.join(" "),
                n.signature.out.dims,
                cost.flop / 1e9,
                100.0 * cost.flop / total,
                cost.bytes / 1e6,
                n.op.detail(),
                self.variant(step, device),
            );
        }
        let _ = writeln!(
            text,
            "{} steps, {:.3} + {:.3} TFLOP, {} parameters ({} trained), arena {:.1} MB (naive {:.1} MB), weights {:.1} MB",
            s.steps,
            s.forward_flop / 1e12,
            s.backward_flop / 1e12,
            s.parameters,
            s.trainable_parameters,
            s.arena_bytes as f64 / 1e6,
            s.naive_bytes as f64 / 1e6,
            s.weight_bytes as f64 / 1e6,
        );
        text
    }

    /// Extents of an operand, with its type where that is not the plan's.
    fn operand(&self, spec: &Spec) -> String {
        let plain = spec.dtype == self.rec.dtype() || spec.dtype == DType::I32;
        if plain { format!("{:?}", spec.dims) } else { format!("{:?} {}", spec.dims, spec.dtype) }
    }

    /// The `n` largest buffers by scope name, for messages.
    pub(crate) fn largest(&self, n: usize) -> String {
        let mut all: Vec<(usize, String)> =
            self.places.at.iter().map(|(b, r)| (r.len(), self.buffer_name(*b))).collect();
        all.sort_by(|a, b| b.cmp(a));
        let show =
            |(bytes, name): &(usize, String)| format!("{name} {:.1} MB", *bytes as f64 / 1e6);
        all.iter().take(n).map(show).collect::<Vec<_>>().join(", ")
    }

    fn buffer_name(&self, b: Buffer) -> String {
        match b {
            Buffer::Value(r) => self.rec.slots[r].name.clone(),
            Buffer::Again(r) => format!("{} (again)", self.rec.slots[r].name),
            Buffer::Grad(r) => format!("gradient of {}", self.rec.slots[r].name),
            Buffer::Seed(i) => format!("given gradient of {}", self.outputs[i].0),
            Buffer::Start => "the start of the gradient".into(),
            Buffer::Flat(flat) => format!("{flat:?} of all trainables"),
            Buffer::Scratch(t) => match self.steps[t].action {
                Action::Seed { .. } | Action::Shadow | Action::Collect => "no scratch".into(),
                _ => format!("scratch of {}", self.nodes[self.steps[t].node].scope),
            },
        }
    }

    /// Parameters that some step reads.
    pub(crate) fn used_params(&self) -> HashSet<usize> {
        let of_nodes = |s: &super::Step| match s.action {
            Action::Seed { .. } | Action::Shadow | Action::Collect => vec![],
            _ => self.nodes[s.node].ins.clone(),
        };
        let alone = |r: usize| match &self.rec.slots[r].class {
            Class::Together(all) => all.clone(),
            _ => vec![r],
        };
        let ins = self.steps.iter().flat_map(of_nodes).map(|v| self.rec.slots[v.0].root);
        ins.flat_map(alone)
            .filter(|r| matches!(self.rec.slots[*r].class, Class::Param { .. }))
            .collect()
    }
}

fn letter(m: GradMode) -> char {
    match m {
        GradMode::Skip => '-',
        GradMode::Overwrite => 'o',
        GradMode::Accumulate => 'a',
    }
}
