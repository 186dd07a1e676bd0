//! Layers on one input as one operation, where there is one for all of them.

use super::{
    Recorder, Value,
    memory::FLAT_ALIGN,
    record::{Class, Node, Slot},
};
use crate::{device::cpu::ALIGN_BYTES, op::Op, tensor::Spec};
use std::collections::HashMap;

/// Nodes of one group are at most so far apart: none of their results waits longer than the next few steps.
const NEAR: usize = 4;
/// Results of at most so many bytes may wait as long as they like: the time projections of all residual blocks.
const SMALL_BYTES: usize = 64 << 10;

/// What the plan knows of each node.
pub(super) struct Known {
    /// Leads to an output.
    pub live: Vec<bool>,
    /// Runs once a steady input is fed.
    pub once: Vec<bool>,
    /// A gradient goes back through it.
    pub backward: Vec<bool>,
    /// Lies in a segment that is computed again.
    pub again: Vec<bool>,
    /// A backward pass reads its result, which therefore waits anyway.
    pub kept: Vec<bool>,
}

/// Joins live nodes that do the same to one value, each with weights of its own, where [`Op::beside`] knows them as one:
/// queries, keys and values, with and without adapters; the text's keys and values of all layers, where they are made
/// once a prompt or a backward pass reads them all; the time projections. The joint node stands at the first one's place, under its scope; the others'
/// results are parts of its output, their trainables lie one behind the other and are one operand.
///
/// `ends` are the values that outlive the run. A result that would wait for long is left where it was made, so that no more
/// memory is planned, and so is one whose weights another node reads too.
pub(super) fn join(rec: &mut Recorder, nodes: &mut Vec<Node>, ends: &[usize], known: &Known) {
    let mut joints: HashMap<usize, Node> = HashMap::new();
    let mut gone = vec![false; nodes.len()];
    for (all, op) in parts(rec, nodes, ends, known) {
        if let (Some(first), Some(node)) = (all.first(), joint(rec, nodes, &all, op)) {
            all[1..].iter().for_each(|i| gone[*i] = true);
            joints.insert(*first, node);
        }
    }
    joints.into_iter().for_each(|(i, n)| nodes[i] = n);
    let mut gone = gone.into_iter();
    nodes.retain(|_| !gone.next().unwrap_or(false));
}

/// The trainables that [`join`] lays one behind the other.
pub(super) fn rows(
    rec: &Recorder,
    nodes: &[Node],
    ends: &[usize],
    known: &Known,
) -> Vec<Vec<usize>> {
    let of = |(all, _): (Vec<usize>, _)| {
        let trained = trained(rec, &nodes[all[0]]);
        let operands = (1..).zip(trained).filter(|(_, t)| *t).map(|(k, _)| k);
        operands.map(|k| all.iter().map(|i| nodes[*i].ins[k].0).collect()).collect::<Vec<_>>()
    };
    parts(rec, nodes, ends, known).into_iter().flat_map(of).collect()
}

/// Nodes that become one, by number, and the operation that they become.
fn parts(
    rec: &Recorder,
    nodes: &[Node],
    ends: &[usize],
    known: &Known,
) -> Vec<(Vec<usize>, Box<dyn Op>)> {
    let mut found = vec![];
    for group in groups(rec, nodes, ends, known) {
        let mut rest = &group[..];
        while let [first, ..] = rest {
            let mut counts = (2..=rest.len()).rev();
            let most = counts.find_map(|n| Some((n, beside(rec, nodes, *first, n, known)?)));
            let Some((count, op)) = most else { break };
            let (all, behind) = rest.split_at(count);
            found.push((all.to_vec(), op));
            rest = behind;
        }
    }
    found
}

/// `count` nodes like node `i` as one operation.
fn beside(
    rec: &Recorder,
    nodes: &[Node],
    i: usize,
    count: usize,
    known: &Known,
) -> Option<Box<dyn Op>> {
    nodes[i].op.beside(count, &trained(rec, &nodes[i]), known.backward[i])
}

/// Which inputs behind the first are trained.
fn trained(rec: &Recorder, n: &Node) -> Vec<bool> {
    n.ins.iter().skip(1).map(|v| rec.slots[v.0].class.is_trained()).collect()
}

/// Nodes that could be one, by number.
fn groups(rec: &Recorder, nodes: &[Node], ends: &[usize], known: &Known) -> Vec<Vec<usize>> {
    let mut readers: HashMap<usize, usize> = HashMap::new();
    let ins = nodes.iter().flat_map(|n| &n.ins);
    ins.for_each(|v| *readers.entry(rec.slots[v.0].root).or_default() += 1);
    let mut open: HashMap<(usize, String), usize> = HashMap::new();
    let mut groups: Vec<Vec<usize>> = vec![];
    for (i, n) in nodes.iter().enumerate().filter(|(i, _)| known.live[*i]) {
        let given = |v: &Value| {
            let slot = &rec.slots[v.0];
            slot.root == v.0
                && match slot.class {
                    // alone in its place in the flat buffers
                    Class::Param { trainable: true, .. } => {
                        readers.get(&v.0) == Some(&1) && slot.spec.len().is_multiple_of(FLAT_ALIGN)
                    }
                    Class::Param { .. } | Class::Table(_) => true,
                    _ => false,
                }
        };
        let bytes = n.signature.out.bytes();
        let whole = bytes > 0 && bytes.is_multiple_of(ALIGN_BYTES) && !ends.contains(&n.out.0);
        let Some((x, others)) = n.ins.split_first() else { continue };
        if !whole || !others.iter().all(given) || beside(rec, nodes, i, 2, known).is_none() {
            continue;
        }
        // what it is, what it does, to what, and when
        let segment = if known.again[i] { n.segment } else { None };
        let when = (segment, n.detached, known.backward[i]);
        let how = (n.op.detail(), trained(rec, n));
        let like = format!("{} {how:?} {:?} {when:?}", n.op.name(), n.specs);
        let waits = known.once[i] || known.kept[i] || bytes <= SMALL_BYTES;
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
    let trained = trained(rec, first);
    let frozen = |i: &usize| {
        let others = nodes[*i].ins[1..].iter().zip(&trained);
        others.filter(|(_, t)| !**t).map(|(v, _)| *v).collect::<Vec<_>>()
    };
    let mut ins: Vec<Value> = first.ins.iter().take(1).copied().collect();
    ins.extend(all.iter().flat_map(frozen));
    let mut specs: Vec<Spec> = ins.iter().map(|v| rec.slots[v.0].spec.clone()).collect();
    // every trained operand of all, along the first axis
    let mut together = vec![];
    for (k, _) in trained.iter().enumerate().filter(|(_, t)| **t) {
        let spec = &rec.slots[first.ins[k + 1].0].spec;
        let mut dims = spec.dims.clone();
        *dims.first_mut()? *= all.len();
        specs.push(spec.with(&dims));
        together.push(all.iter().map(|i| nodes[*i].ins[k + 1].0).collect::<Vec<_>>());
    }
    let signature = op.infer(&specs).ok()?;
    let part = first.signature.out.bytes();
    if signature.out.bytes() != part * all.len() {
        return None;
    }
    for (members, spec) in together.into_iter().zip(&specs[ins.len()..].to_vec()) {
        let name = rec.slots[members[0]].name.clone();
        ins.push(added(rec, spec, Class::Together(members), name));
    }
    let scope = first.scope.clone();
    let out = added(rec, &signature.out, Class::Temp, scope.clone());
    for (p, i) in all.iter().enumerate() {
        let own = nodes[*i].out.0;
        for slot in rec.slots.iter_mut().filter(|s| s.root == own) {
            (slot.root, slot.offset, slot.grad) = (out.0, p * part, out.0);
        }
    }
    let saved = signature.saved.iter().map(|s| added(rec, s, Class::Temp, scope.clone())).collect();
    let (segment, detached) = (first.segment, first.detached);
    Some(Node { op, ins, specs, out, saved, signature, scope, segment, detached })
}

/// A value more.
fn added(rec: &mut Recorder, spec: &Spec, class: Class, name: String) -> Value {
    let root = rec.slots.len();
    let spec = spec.clone();
    rec.slots.push(Slot { spec, class, name, root, offset: 0, grad: root, steady: false });
    Value(root)
}
