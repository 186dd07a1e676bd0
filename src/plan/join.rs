//! Layers on one input as one operation, where there is one for all of them.

use super::{
    Recorder, Value,
    record::{Class, Node, Slot},
};
use crate::{device::cpu::ALIGN_BYTES, op::Op, tensor::Spec};
use std::collections::HashMap;

/// Nodes of one group are at most so far apart: none of their results waits longer than the next few steps.
const NEAR: usize = 4;
/// Results of at most so many bytes may wait as long as they like: the time projections of all residual blocks.
const SMALL_BYTES: usize = 64 << 10;

/// Joins live nodes of a forward pass that do the same to one value, each with weights of its own, where
/// [`Op::beside`] knows them as one: queries, keys and values; the text's keys and values of all layers, once a
/// prompt; the time projections. The joint node stands at the first one's place, under its scope; the others' results are
/// parts of its output.
///
/// `ends` are the values that outlive the run, `once` says which nodes run once a steady input is fed. A result that
/// would wait for long is left where it was made, so that no more memory is planned.
pub(super) fn join(
    rec: &mut Recorder,
    nodes: &mut Vec<Node>,
    ends: &[usize],
    (live, once): (&[bool], &[bool]),
) {
    let mut joints: HashMap<usize, Node> = HashMap::new();
    let mut gone = vec![false; nodes.len()];
    for group in groups(rec, nodes, ends, (live, once)) {
        let mut rest = &group[..];
        while let [first, ..] = rest {
            let op = &nodes[*first].op;
            let found = (2..=rest.len()).rev().find_map(|n| Some((n, op.beside(n)?)));
            let Some((count, op)) = found else { break };
            let (all, behind) = rest.split_at(count);
            if let Some(node) = joint(rec, nodes, all, op) {
                all[1..].iter().for_each(|i| gone[*i] = true);
                joints.insert(*first, node);
            }
            rest = behind;
        }
    }
    joints.into_iter().for_each(|(i, n)| nodes[i] = n);
    let mut gone = gone.into_iter();
    nodes.retain(|_| !gone.next().unwrap_or(false));
}

/// Nodes that could be one, by number.
fn groups(
    rec: &Recorder,
    nodes: &[Node],
    ends: &[usize],
    (live, once): (&[bool], &[bool]),
) -> Vec<Vec<usize>> {
    let mut open: HashMap<(usize, String), usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = vec![];
    for (i, n) in nodes.iter().enumerate().filter(|(i, _)| live[*i]) {
        let given = |v: &Value| {
            let slot = &rec.slots[v.0];
            slot.root == v.0 && matches!(slot.class, Class::Param { .. } | Class::Table(_))
        };
        let bytes = n.signature.out.bytes();
        let whole = bytes > 0 && bytes.is_multiple_of(ALIGN_BYTES) && !ends.contains(&n.out.0);
        let Some((x, others)) = n.ins.split_first() else { continue };
        if !whole || !n.saved.is_empty() || !others.iter().all(given) || n.op.beside(2).is_none() {
            continue;
        }
        // what it is, what it does, to what
        let like = format!("{} {} {:?}", n.op.name(), n.op.detail(), n.specs);
        let waits = once[i] || bytes <= SMALL_BYTES;
        let place = open.entry((x.0, like)).or_insert(usize::MAX);
        match groups.get_mut(*place) {
            Some(group) if waits || group.last().is_some_and(|last| i - last <= NEAR) => {
                group.push(i);
            }
            _ => {
                *place = groups.len();
                groups.push(vec![i]);
            }
        }
    }
    groups
}

/// `all` as one node of `op`; the results become parts of its output.
fn joint(rec: &mut Recorder, nodes: &[Node], all: &[usize], op: Box<dyn Op>) -> Option<Node> {
    let first = &nodes[*all.first()?];
    let others = all.iter().flat_map(|i| &nodes[*i].ins[1..]);
    let ins: Vec<Value> = first.ins.iter().take(1).chain(others).copied().collect();
    let specs: Vec<Spec> = ins.iter().map(|v| rec.slots[v.0].spec.clone()).collect();
    let signature = op.infer(&specs).ok()?;
    let part = first.signature.out.bytes();
    if !signature.saved.is_empty() || signature.out.bytes() != part * all.len() {
        return None;
    }
    let root = rec.slots.len();
    let (spec, name) = (signature.out.clone(), first.scope.clone());
    let class = Class::Temp;
    rec.slots.push(Slot { spec, class, name, root, offset: 0, grad: root, steady: false });
    for (p, i) in all.iter().enumerate() {
        let own = nodes[*i].out.0;
        for slot in rec.slots.iter_mut().filter(|s| s.root == own) {
            (slot.root, slot.offset, slot.grad) = (root, p * part, root);
        }
    }
    Some(Node {
        op,
        ins,
        specs,
        out: Value(root),
        saved: vec![],
        signature,
        scope: first.scope.clone(),
        segment: first.segment,
        detached: first.detached,
    })
}
