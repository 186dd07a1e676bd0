//! From a recording to steps: what is needed, which gradients, in which mode, what is repeated.

use super::{
    Action, Plan, Recorder, Step, Value,
    buffers::kept_values,
    fuse::fuse,
    join::{Known, join, rows},
    memory,
    passing::pass_on,
    record::{Class, Node, Slot},
};
use crate::{
    error::{Error, Result},
    op::{GradMode, Later},
    tensor::DType,
};
use std::collections::{HashMap, HashSet};

/// Whether a backward pass is planned, and from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// Forward only.
    #[default]
    Inference,
    /// Backward from a scalar.
    Loss(Value),
    /// Backward from gradients of the outputs that the caller gives.
    Seeded,
}

/// How to plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// The backward pass.
    pub pass: Pass,
    /// Repeat the forward steps of `checkpoint` segments instead of keeping their activations; those of `recompute` ones
    /// are repeated anyway.
    pub checkpoint: bool,
    /// Fill every buffer with NaN before it is written and after its last use.
    pub poison: bool,
}

impl Recorder {
    /// Plans the recording for the named outputs.
    ///
    /// # Errors
    /// [`Error::Plan`] when a loss is no scalar or depends on nothing trainable, or when an operation
    /// takes one value twice and both gradients are wanted.
    pub fn plan(self, outputs: &[(&str, Value)], options: PlanOptions) -> Result<Plan> {
        build(self, outputs, options)
    }

    /// An inference plan of one output named `out`.
    ///
    /// # Errors
    /// As [`Recorder::plan`].
    pub fn plan_inference(self, out: Value) -> Result<Plan> {
        let options = PlanOptions { pass: Pass::Inference, ..PlanOptions::default() };
        self.plan(&[("out", out)], options)
    }
}

fn build(mut rec: Recorder, outputs: &[(&str, Value)], options: PlanOptions) -> Result<Plan> {
    let mut nodes = std::mem::take(&mut rec.nodes);
    let loss = match options.pass {
        Pass::Loss(v) => Some(v),
        _ => None,
    };
    let root = |rec: &Recorder, v: Value| rec.slots[v.0].root;
    let last = outputs.iter().map(|(_, v)| *v).chain(loss);
    let ends: Vec<usize> = last.map(|v| root(&rec, v)).collect();
    let shadowed = rec.shadows_trainables();
    let once = |rec: &Recorder, nodes: &[Node], live: &[bool]| match options.pass {
        Pass::Inference if !shadowed => steady_nodes(rec, nodes, live),
        _ => vec![false; nodes.len()],
    };
    let seeds: Vec<(Option<usize>, Value)> = match (options.pass, loss) {
        (Pass::Inference, _) => vec![],
        (_, Some(v)) => vec![(None, v)],
        (_, None) => outputs.iter().enumerate().map(|(i, (_, v))| (Some(i), *v)).collect(),
    };
    let trains = options.pass != Pass::Inference;
    let live = reachable(&rec, &nodes, &ends);
    let needs = needing_gradient(&rec, &nodes, &live);
    let later = |n: &Node| match trains && needs[n.out.0] {
        false => Later::Nothing,
        true if rec.is_repeated(n, options.checkpoint) => Later::Again,
        true => Later::Backward,
    };
    let later: Vec<Later> = nodes.iter().map(later).collect();
    fuse(&rec, &mut nodes, &ends, (trains, &later));
    let live = reachable(&rec, &nodes, &ends);
    let needs = needing_gradient(&rec, &nodes, &live);
    let mut known = Known {
        once: once(&rec, &nodes, &live),
        live,
        backward: vec![],
        kept: vec![],
        again: nodes.iter().map(|n| rec.is_repeated(n, options.checkpoint)).collect(),
    };
    let steps = backward_steps(&rec, &nodes, &known.live, &needs, &seeds)?;
    known.backward = vec![false; nodes.len()];
    for s in steps.iter().filter(|s| matches!(s.action, Action::Backward { .. })) {
        known.backward[s.node] = true;
    }
    let kept = steps.iter().flat_map(|s| kept_values(&nodes, s)).map(|v| root(&rec, v));
    let kept: HashSet<usize> = kept.collect();
    let lasts = |again: &[bool]| {
        let one = |(i, n): (usize, &Node)| !again[i] && kept.contains(&n.out.0);
        nodes.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    // trainables lie in the same order whether activations are computed again or not
    let own = std::mem::replace(
        &mut known.again,
        nodes.iter().map(|n| rec.is_repeated(n, false)).collect(),
    );
    known.kept = lasts(&known.again);
    if options.pass != Pass::Inference {
        rec.rows = rows(&rec, &nodes, &ends, &known);
    }
    (known.kept, known.again) = (lasts(&own), own);
    join(&mut rec, &mut nodes, &ends, &known);
    let live = reachable(&rec, &nodes, &ends);
    let needs = needing_gradient(&rec, &nodes, &live);
    if let Some(v) = loss {
        check_loss(&rec, v, needs[root(&rec, v)])?;
    }
    let shadow = shadowed.then_some(Step { node: 0, action: Action::Shadow });
    let once = once(&rec, &nodes, &live);
    let forward = |steady: bool| {
        let own = (0..nodes.len()).filter(|i| live[*i] && once[*i] == steady);
        own.map(|node| Step { node, action: Action::Forward }).collect::<Vec<_>>()
    };
    let first = forward(true);
    let once_steps = first.len();
    let mut steps: Vec<Step> = shadow.into_iter().chain(first).chain(forward(false)).collect();
    let forward_steps = steps.len();
    let mut inner = HashMap::new();
    if options.pass != Pass::Inference {
        let mut backward = backward_steps(&rec, &nodes, &live, &needs, &seeds)?;
        pass_on(&mut rec, &nodes, &mut backward);
        inner = inner_values(&rec, &nodes, &live, &ends, options.checkpoint);
        steps.extend(with_repeats(&rec, &nodes, &inner, backward));
        if shadowed {
            steps.push(Step { node: 0, action: Action::Collect });
        }
    }
    let outputs: Vec<(String, Value)> = outputs.iter().map(|(n, v)| (n.to_string(), *v)).collect();
    let places = memory::place(&rec, &nodes, &inner, (&steps, once_steps), &outputs, loss);
    let poison = options.poison;
    Ok(Plan { rec, nodes, steps, once_steps, forward_steps, outputs, loss, places, poison, inner })
}

fn check_loss(rec: &Recorder, loss: Value, needs: bool) -> Result<()> {
    let spec = rec.spec(loss);
    let problem = if spec.len() != 1 {
        format!("the loss has shape {:?}, expected one element", spec.dims)
    } else if !needs {
        "the loss does not depend on any trainable parameter; check the target patterns".into()
    } else {
        return Ok(());
    };
    Err(Error::Plan { at: rec.slots[loss.0].name.clone(), problem })
}

/// Which nodes lead to an output.
fn reachable(rec: &Recorder, nodes: &[Node], ends: &[usize]) -> Vec<bool> {
    let mut wanted: HashSet<usize> = ends.iter().copied().collect();
    let mut live = vec![false; nodes.len()];
    for (i, n) in nodes.iter().enumerate().rev() {
        if wanted.contains(&rec.slots[n.out.0].root) {
            live[i] = true;
            wanted.extend(n.ins.iter().map(|v| rec.slots[v.0].root));
        }
    }
    live
}

/// Which nodes depend on steady inputs, tables and frozen weights alone; none without a steady input.
fn steady_nodes(rec: &Recorder, nodes: &[Node], live: &[bool]) -> Vec<bool> {
    let fixed = |s: &Slot| {
        s.steady || matches!(s.class, Class::Table(_) | Class::Param { trainable: false, .. })
    };
    let mut steady: Vec<bool> = rec.slots.iter().map(fixed).collect();
    let mut once = vec![false; nodes.len()];
    if !rec.slots.iter().any(|s| s.steady) {
        return once;
    }
    for (i, n) in nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
        once[i] = n.ins.iter().all(|v| steady[rec.slots[v.0].root]);
        steady[rec.slots[n.out.0].root] = once[i];
    }
    once
}

/// Which values depend on a trainable parameter or on an input whose gradient is wanted.
fn needing_gradient(rec: &Recorder, nodes: &[Node], live: &[bool]) -> Vec<bool> {
    let mut needs: Vec<bool> = rec
        .slots
        .iter()
        .map(|s| {
            let trained = Class::is_trained(&s.class);
            trained || matches!(s.class, Class::Input { grad: true })
        })
        .collect();
    for (n, _) in nodes.iter().zip(live).filter(|(_, l)| **l) {
        // integers are steps: no slope
        let chosen = n.detached || rec.slots[n.out.0].spec.dtype == DType::I32;
        if !chosen && n.ins.iter().any(|v| needs[rec.slots[v.0].root]) {
            needs[n.out.0] = true;
        }
    }
    needs
}

fn backward_steps(
    rec: &Recorder,
    nodes: &[Node],
    live: &[bool],
    needs: &[bool],
    seeds: &[(Option<usize>, Value)],
) -> Result<Vec<Step>> {
    let root = |v: &Value| rec.slots[v.0].root;
    // parts of a joint result are written each on its own
    let place = |v: &Value| (root(v), rec.slots[v.0].offset);
    let mut written: HashSet<(usize, usize)> = HashSet::new();
    let mut mode_of = |at: (usize, usize)| match needs[at.0] {
        false => GradMode::Skip,
        true if written.insert(at) => GradMode::Overwrite,
        true => GradMode::Accumulate,
    };
    let mut steps = vec![];
    for (output, v) in seeds {
        let mode = mode_of(place(v));
        if mode != GradMode::Skip {
            steps.push(Step { node: root(v), action: Action::Seed { output: *output, mode } });
        }
    }
    let mut flows: HashSet<usize> = steps.iter().map(|s| s.node).collect();
    for (i, n) in nodes.iter().enumerate().rev() {
        if !live[i] || !flows.contains(&root(&n.out)) {
            continue; // nothing trainable upstream, or no gradient arrives
        }
        if let Some(why) = n.op.forward_only() {
            let at = format!("{}: {}", n.scope, n.op.name());
            return Err(Error::Plan { at, problem: why.into() });
        }
        let wants: Vec<bool> = n.ins.iter().map(|v| needs[root(v)]).collect();
        let wanted: Vec<_> = n.ins.iter().map(place).filter(|at| needs[at.0]).collect();
        if wanted.iter().collect::<HashSet<_>>().len() != wanted.len() {
            return Err(Error::Plan {
                at: format!("{}: {}", n.scope, n.op.name()),
                problem: "one value is used as two operands that both need a gradient".into(),
            });
        }
        flows.extend(wanted.iter().map(|at| at.0));
        let modes = n.ins.iter().map(|v| mode_of(place(v))).collect();
        let keeps = n.op.keeps(&wants);
        steps.push(Step { node: i, action: Action::Backward { keeps, modes } });
    }
    Ok(steps)
}

/// Values (outputs and saved) that are produced in a segment that is computed again and used only inside it:
/// value -> segment. `all`: every segment is.
fn inner_values(
    rec: &Recorder,
    nodes: &[Node],
    live: &[bool],
    ends: &[usize],
    all: bool,
) -> HashMap<usize, usize> {
    let mut inner = HashMap::new();
    for (n, _) in nodes.iter().zip(live).filter(|(n, l)| **l && rec.is_repeated(n, all)) {
        if let Some(s) = n.segment {
            inner.insert(rec.slots[n.out.0].root, s);
            inner.extend(n.saved.iter().map(|v| (v.0, s)));
        }
    }
    for (n, _) in nodes.iter().zip(live).filter(|(_, l)| **l) {
        for v in &n.ins {
            let r = rec.slots[v.0].root;
            if inner.get(&r).is_some_and(|s| Some(*s) != n.segment) {
                inner.remove(&r);
            }
        }
    }
    inner.retain(|r, _| !ends.contains(r));
    inner
}

/// Puts the repeated forward steps of each segment before its first backward step.
fn with_repeats(
    rec: &Recorder,
    nodes: &[Node],
    inner: &HashMap<usize, usize>,
    backward: Vec<Step>,
) -> Vec<Step> {
    let mut wanted: HashMap<usize, HashSet<usize>> = HashMap::new();
    for s in &backward {
        for v in kept_values(nodes, s) {
            let r = rec.slots[v.0].root;
            if let Some(segment) = inner.get(&r) {
                wanted.entry(*segment).or_default().insert(r);
            }
        }
    }
    let mut repeats: HashMap<usize, Vec<usize>> = HashMap::new();
    for (i, n) in nodes.iter().enumerate().rev() {
        let Some(want) = n.segment.and_then(|s| wanted.get_mut(&s)) else { continue };
        let makes =
            want.contains(&rec.slots[n.out.0].root) || n.saved.iter().any(|v| want.contains(&v.0));
        if makes {
            let ins = n.ins.iter().map(|v| rec.slots[v.0].root).filter(|r| inner.contains_key(r));
            want.extend(ins);
            repeats.entry(n.segment.unwrap_or(0)).or_default().push(i);
        }
    }
    let mut out = vec![];
    for s in backward {
        let segment = match s.action {
            Action::Backward { .. } => nodes[s.node].segment,
            _ => None,
        };
        if let Some(list) = segment.and_then(|s| repeats.remove(&s)) {
            out.extend(list.into_iter().rev().map(|node| Step { node, action: Action::Again }));
        }
        out.push(s);
    }
    out
}
