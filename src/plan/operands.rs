//! The operands of every step, resolved to addresses once.

use super::{
    Action, Plan, Value,
    buffers::{Buffer, Flats, grad_buffer},
};
use crate::{
    error::{Error, Result},
    op::GradMode,
};
use std::collections::HashMap;
use std::ops::Range;

/// Where one operand of a step lies.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Arena(Range<usize>),
    Weight(usize),
    None,
}

/// The operands of one step, resolved once.
#[derive(Debug, Default)]
pub(super) struct Operands {
    /// Inputs, then the output and saved values where backward reads them, then the output gradient.
    pub reads: Vec<Place>,
    /// Written ranges: output and saved values, or input gradients; then scratch.
    pub writes: Vec<Range<usize>>,
    /// Whether each written range keeps its old content (accumulated gradients, skipped ones).
    pub keeps_old: Vec<bool>,
    /// Buffers that die with this step (poison mode).
    pub dies: Vec<Range<usize>>,
}

/// The bytes of `v` in the buffer of its root, which lies at `at`.
fn part(plan: &Plan, v: Value, at: Range<usize>) -> Range<usize> {
    let slot = &plan.rec.slots[v.0];
    let start = at.start + slot.offset;
    start..start + slot.spec.bytes()
}

/// The operands of step `t`; `weights` maps values to indices of frozen weights.
pub(super) fn resolve(plan: &Plan, t: usize, weights: &HashMap<usize, usize>) -> Result<Operands> {
    let step = &plan.steps[t];
    let place = |b: Buffer| -> Result<Range<usize>> {
        plan.places.at.get(&b).cloned().ok_or_else(|| Error::Plan {
            at: format!("step {t}"),
            problem: format!("{b:?} has no place"),
        })
    };
    let read = |v: &Value| -> Result<Place> {
        match weights.get(&plan.rec.slots[v.0].root) {
            Some(i) => Ok(Place::Weight(*i)),
            None => place(plan.read_of(step, *v)).map(|at| Place::Arena(part(plan, *v, at))),
        }
    };
    let written = |v: &Value| place(plan.read_of(step, *v));
    let mut o = Operands::default();
    match &step.action {
        Action::Seed { output, mode } => {
            let from = output.map_or(Buffer::Start, Buffer::Seed);
            o.reads.push(Place::Arena(place(from)?));
            o.writes.push(place(grad_buffer(&plan.rec, Value(step.node)))?);
            o.keeps_old.push(*mode == GradMode::Accumulate);
        }
        Action::Shadow => {
            o.reads.push(Place::Arena(place(Buffer::Flat(Flats::Master))?));
            o.writes.push(place(Buffer::Flat(Flats::Shadow))?);
            o.keeps_old.push(false);
        }
        Action::Collect => {
            o.reads.push(Place::Arena(place(Buffer::Flat(Flats::PassGrad))?));
            o.writes.push(place(Buffer::Flat(Flats::Grad))?);
            o.keeps_old.push(true);
        }
        Action::Forward | Action::Again => {
            let n = &plan.nodes[step.node];
            o.reads = n.ins.iter().map(read).collect::<Result<_>>()?;
            o.writes = [&n.out].into_iter().chain(&n.saved).map(written).collect::<Result<_>>()?;
            o.keeps_old = vec![false; o.writes.len()];
        }
        Action::Backward { keeps, modes } => {
            let n = &plan.nodes[step.node];
            let grad = |v: &Value| place(grad_buffer(&plan.rec, *v));
            for (i, v) in n.ins.iter().enumerate() {
                o.reads.push(if keeps.ins.contains(&i) { read(v)? } else { Place::None });
            }
            o.reads.push(if keeps.out { read(&n.out)? } else { Place::None });
            if keeps.saved {
                o.reads.extend(n.saved.iter().map(read).collect::<Result<Vec<_>>>()?);
            }
            o.reads.push(Place::Arena(part(plan, n.out, grad(&n.out)?)));
            for (v, m) in n.ins.iter().zip(modes).filter(|(_, m)| **m != GradMode::Skip) {
                let trained = plan.rec.slots[plan.rec.slots[v.0].root].class.is_trained();
                o.writes.push(part(plan, *v, grad(v)?));
                o.keeps_old.push(*m == GradMode::Accumulate || trained);
            }
        }
    }
    if let Some(at) = plan.places.at.get(&Buffer::Scratch(t)) {
        o.writes.push(at.clone());
        o.keeps_old.push(false);
    }
    if plan.poison {
        let dead = plan.places.life.iter().filter(|(_, l)| l.1 == t);
        o.dies = dead.filter_map(|(b, _)| plan.places.at.get(b).cloned()).collect();
    }
    Ok(o)
}
