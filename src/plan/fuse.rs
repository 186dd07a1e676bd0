//! Two operations as one, where nothing else reads what lies between them.

use super::{
    Recorder,
    record::{Class, Node},
};
use crate::tensor::Spec;
use std::collections::HashMap;

/// Joins nodes of a forward pass with the one that alone reads their output, where [`crate::op::Op::followed_by`] knows
/// both as one: a linear layer with the GEGLU, the activation or the residual sum behind it. The joint node stands at the second's
/// place, under the first one's scope.
///
/// `ends` are the values that outlive the run. A backward pass would need what lies between, so plans with one are left
/// as they are recorded.
pub(super) fn fuse(rec: &Recorder, nodes: &mut Vec<Node>, ends: &[usize]) {
    let mut readers: HashMap<usize, usize> = HashMap::new();
    for n in nodes.iter() {
        n.ins.iter().for_each(|v| *readers.entry(rec.slots[v.0].root).or_default() += 1);
    }
    let mut made: HashMap<usize, usize> = HashMap::new(); // value -> the node that makes it
    let mut gone = vec![false; nodes.len()];
    for second in 0..nodes.len() {
        let joint = (0..nodes[second].ins.len()).find_map(|at| {
            let v = nodes[second].ins[at];
            let first = *made.get(&v.0)?;
            let alone = readers.get(&v.0) == Some(&1) && !ends.contains(&v.0);
            if !alone { None } else { joined(rec, (&nodes[first], &nodes[second]), at) }
                .map(|n| (first, n))
        });
        if let Some((first, node)) = joint {
            gone[first] = true;
            made.remove(&nodes[first].out.0);
            nodes[second] = node;
        }
        let out = nodes[second].out.0;
        if rec.slots[out].root == out && rec.slots[out].class == Class::Temp {
            made.insert(out, second);
        }
    }
    let mut gone = gone.into_iter();
    nodes.retain(|_| !gone.next().unwrap_or(false));
}

/// `first` and `second`, whose input `at` is the output of `first`, as one node.
fn joined(rec: &Recorder, (first, second): (&Node, &Node), at: usize) -> Option<Node> {
    let op = first.op.followed_by(&*second.op, at)?;
    let others = second.ins.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, v)| *v);
    let ins: Vec<_> = first.ins.iter().copied().chain(others).collect();
    let specs: Vec<Spec> = ins.iter().map(|v| rec.slots[v.0].spec.clone()).collect();
    let signature = op.infer(&specs).ok()?;
    let plain = first.saved.is_empty() && second.saved.is_empty() && signature.saved.is_empty();
    if signature.out != second.signature.out || !plain {
        return None;
    }
    Some(Node {
        op,
        ins,
        specs,
        out: second.out,
        saved: vec![],
        signature,
        scope: first.scope.clone(),
        segment: second.segment,
        detached: second.detached,
    })
}
