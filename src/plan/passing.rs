//! Gradients that an operation passes on unchanged: aliases in the plan, not copies.

use super::{
    Action, Recorder, Step,
    record::{Class, Node},
};
use crate::op::GradMode;
use std::collections::HashMap;

/// When the gradient of a value is written and read, as numbers of backward steps.
#[derive(Debug, Default)]
struct Times {
    writes: Vec<usize>,
    read: usize,
}

/// Lets values share a gradient buffer where [`crate::op::Op::passes`] says that one's gradient is the other's, and drops
/// the steps that would only have copied.
///
/// Sums `y = a + b` have `da = db = dy`: three names of one buffer, as long as nothing is added to one of them before the
/// others were read; so has the residual of a layer. Only the first writer of a gradient can be replaced so; gradients that a caller or an optimizer reads
/// keep buffers of their own.
pub(super) fn pass_on(rec: &mut Recorder, nodes: &[Node], steps: &mut Vec<Step>) {
    let times = times(rec, nodes, steps);
    let mut members: HashMap<usize, Vec<usize>> = HashMap::new();
    for (t, step) in steps.iter_mut().enumerate() {
        let Action::Backward { modes, .. } = &mut step.action else { continue };
        let n = &nodes[step.node];
        let out = rec.slots[n.out.0].root;
        let shared = rec.slots[out].grad;
        for k in n.op.passes() {
            let (Some(v), Some(mode)) = (n.ins.get(*k), modes.get_mut(*k)) else { continue };
            let x = rec.slots[v.0].root;
            let (own, whole) = (&rec.slots[x], &rec.slots[out]);
            let alike = own.spec.dtype == whole.spec.dtype && own.spec.len() == whole.spec.len();
            let group = members.entry(shared).or_insert_with(|| vec![shared]);
            let apart = |m: &usize| clashes(&times, t, x, *m) || clashes(&times, t, *m, x);
            if *mode != GradMode::Overwrite
                || own.class != Class::Temp
                || !alike
                || !times.contains_key(&x)
                || group.iter().any(apart)
            {
                continue;
            }
            group.push(x);
            rec.slots[x].grad = shared;
            *mode = GradMode::Skip;
        }
    }
    steps.retain(|s| match &s.action {
        Action::Backward { modes, .. } => modes.iter().any(|m| *m != GradMode::Skip),
        _ => true,
    });
}

fn times(rec: &Recorder, nodes: &[Node], steps: &[Step]) -> HashMap<usize, Times> {
    let mut times: HashMap<usize, Times> = HashMap::new();
    for (t, step) in steps.iter().enumerate() {
        match &step.action {
            Action::Seed { .. } => times.entry(step.node).or_default().writes.push(t),
            Action::Backward { modes, .. } => {
                let n = &nodes[step.node];
                times.entry(rec.slots[n.out.0].root).or_default().read = t;
                let wanted = n.ins.iter().zip(modes).filter(|(_, m)| **m != GradMode::Skip);
                for (v, _) in wanted {
                    times.entry(rec.slots[v.0].root).or_default().writes.push(t);
                }
            }
            _ => {}
        }
    }
    times
}

/// Whether something is added to the gradient of `a` after step `t` while that of `b` is still to be read.
fn clashes(times: &HashMap<usize, Times>, t: usize, a: usize, b: usize) -> bool {
    let (Some(a), Some(b)) = (times.get(&a), times.get(&b)) else { return true };
    a.writes.iter().any(|w| *w > t && *w <= b.read)
}
