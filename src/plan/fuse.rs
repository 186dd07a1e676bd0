//! Two operations as one, where nothing else reads what lies between them.

use super::{
    Recorder, Value,
    record::{Class, Node},
};
use crate::{op::Later, tensor::Spec};
use std::collections::HashMap;

/// Joins nodes with the one that alone reads their output, where [`crate::op::Op::followed_by`] knows both as one: a linear
/// layer with the GEGLU, the activation or the residual sum behind it. The joint node stands at the second's place, under the
/// first one's scope.
///
/// `ends` are the values that outlive the run. In a plan that `trains` only neighbours are joined: no operand then waits
/// longer, and gradients add up in the same order. What comes `later` than each node decides too: where a backward pass follows, the
/// joint operation saves what lies between if that pass reads it. What is computed again stays the same too, as both are
/// of one segment.
pub(super) fn fuse(
    rec: &Recorder,
    nodes: &mut Vec<Node>,
    ends: &[usize],
    (trains, later): (bool, &[Later]),
) {
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
            let pair = (&nodes[first], &nodes[second]);
            let fits = alone && (!trains || first + 1 == second && trainable(rec, pair, at));
            let later = later.get(second).copied()?;
            if !fits { None } else { joined(rec, pair, at, later) }.map(|n| (first, n))
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

/// The inputs of `second` but `at`.
fn others(second: &Node, at: usize) -> impl Iterator<Item = Value> {
    second.ins.iter().enumerate().filter(move |(i, _)| *i != at).map(|(_, v)| *v)
}

/// Whether one backward step, and one repetition, can do for both: no value is an operand twice.
fn trainable(rec: &Recorder, (first, second): (&Node, &Node), at: usize) -> bool {
    let root = |v: Value| rec.slots[v.0].root;
    let again = others(second, at).any(|v| first.ins.iter().any(|x| root(*x) == root(v)));
    !again && first.segment == second.segment && first.detached == second.detached
}

/// `first` and `second`, whose input `at` is the output of `first`, as one node.
fn joined(
    rec: &Recorder,
    (first, second): (&Node, &Node),
    at: usize,
    later: Later,
) -> Option<Node> {
    let op = first.op.followed_by(&*second.op, at, later)?;
    let ins: Vec<_> = first.ins.iter().copied().chain(others(second, at)).collect();
    let specs: Vec<Spec> = ins.iter().map(|v| rec.slots[v.0].spec.clone()).collect();
    let signature = op.infer(&specs).ok()?;
    let mut saved = first.saved.clone();
    if signature.saved.len() > saved.len() {
        saved.push(first.out); // a later backward pass reads what lay between
    }
    let kept = saved.iter().map(|v| &rec.slots[v.0].spec).eq(&signature.saved);
    if signature.out != second.signature.out || !second.saved.is_empty() || !kept {
        return None;
    }
    Some(Node {
        op,
        ins,
        specs,
        out: second.out,
        saved,
        signature,
        scope: first.scope.clone(),
        segment: second.segment,
        detached: second.detached,
    })
}
