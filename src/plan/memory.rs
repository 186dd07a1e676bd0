//! When each buffer lives and where it lies.

use super::{
    Action, Recorder, Step, Value,
    buffers::{Buffer, Flats, grad_buffer, kept_values, read_buffer},
    record::{Class, Node, Slot},
};
use crate::{device::cpu::ALIGN_BYTES, op::GradMode, tensor::DType};
use std::collections::HashMap;
use std::ops::Range;

/// Where everything lies, in bytes from the start of the arena.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Every buffer but frozen weights.
    pub at: HashMap<Buffer, Range<usize>>,
    /// First and last step of each buffer.
    pub life: HashMap<Buffer, (usize, usize)>,
    /// Arena size.
    pub total_bytes: usize,
    /// What it would be without reuse.
    pub naive_bytes: usize,
    /// Trainable values in flat order, with their element ranges.
    pub flat: Vec<(usize, Range<usize>)>,
    /// Byte range of the flat master weights.
    pub master: Range<usize>,
    /// Byte range of the flat gradient; empty without a backward pass.
    pub grad: Range<usize>,
    /// Whether the operations read a shadow of the master weights.
    pub shadowed: bool,
}

impl Places {
    /// Bytes of trainable `r` among the f32 master weights; empty for any other value.
    pub fn master_of(&self, r: usize) -> Range<usize> {
        self.within(&self.master, r).unwrap_or(0..0)
    }

    /// Where the f32 numbers of a trainable or of its gradient lie; `None` for any other buffer.
    pub fn flat_of(&self, b: Buffer) -> Option<Range<usize>> {
        match b {
            Buffer::Value(r) => self.within(&self.master, r),
            Buffer::Grad(r) => self.within(&self.grad, r),
            _ => None,
        }
    }

    fn within(&self, flat: &Range<usize>, r: usize) -> Option<Range<usize>> {
        let (_, range) = self.flat.iter().find(|(v, _)| *v == r && !flat.is_empty())?;
        Some(flat.start + range.start * 4..flat.start + range.end * 4)
    }
}

/// The forward and backward buffers a step touches, scratch excluded.
pub(crate) fn touched(
    rec: &Recorder,
    nodes: &[Node],
    inner: &HashMap<usize, usize>,
    step: &Step,
) -> Vec<Buffer> {
    let grad = |v: &Value| grad_buffer(rec, *v);
    let read = |v: &Value| read_buffer(rec, nodes, inner, step, *v);
    match &step.action {
        Action::Forward | Action::Again => {
            let n = &nodes[step.node];
            n.ins.iter().chain([&n.out]).chain(&n.saved).map(read).collect()
        }
        Action::Shadow | Action::Collect => vec![],
        Action::Seed { output, .. } => {
            vec![output.map_or(Buffer::Start, Buffer::Seed), grad(&Value(step.node))]
        }
        Action::Backward { modes, .. } => {
            let n = &nodes[step.node];
            let mut b: Vec<Buffer> = kept_values(nodes, step).iter().map(read).collect();
            b.push(grad(&n.out));
            let wanted = n.ins.iter().zip(modes).filter(|(_, m)| **m != GradMode::Skip);
            b.extend(wanted.map(|(v, _)| grad(v)));
            b
        }
    }
}

fn scratch_bytes(nodes: &[Node], step: &Step) -> usize {
    match step.action {
        Action::Seed { .. } | Action::Shadow | Action::Collect => 0,
        Action::Backward { .. } => nodes[step.node].signature.backward_scratch,
        _ => nodes[step.node].signature.forward_scratch,
    }
}

pub(super) fn place(
    rec: &Recorder,
    nodes: &[Node],
    inner: &HashMap<usize, usize>,
    (steps, once_steps): (&[Step], usize),
    outputs: &[(String, Value)],
    loss: Option<Value>,
) -> Places {
    let end = steps.len();
    let trains = |r: usize| matches!(rec.slots[r].class, Class::Param { trainable: true, .. });
    let mut p = Places::default();
    let mut size: HashMap<Buffer, usize> = HashMap::new();
    for (t, s) in steps.iter().enumerate() {
        for b in touched(rec, nodes, inner, s) {
            let (r, is_grad) = match b {
                Buffer::Value(r) | Buffer::Again(r) => (r, false),
                Buffer::Grad(r) => (r, true),
                Buffer::Seed(i) => (rec.slots[outputs[i].1.0].root, false),
                Buffer::Start => {
                    p.life.insert(b, (0, end));
                    size.insert(b, size_of::<f32>());
                    continue;
                }
                Buffer::Scratch(_) | Buffer::Flat(_) => continue,
            };
            let slot = &rec.slots[r];
            match (&slot.class, b) {
                (_, Buffer::Seed(_)) => {}
                // frozen: outside; trainable: flat
                (Class::Param { .. } | Class::Together(_), _) => continue,
                _ => {}
            }
            let fed = matches!(slot.class, Class::Input { .. } | Class::Table(_));
            let lasts = fed || matches!(b, Buffer::Seed(_));
            let e = p.life.entry(b).or_insert(if lasts && !is_grad { (0, end) } else { (t, t) });
            // what the first steps made once is there for every run of the others
            let stays = lasts || e.0 < once_steps && t >= once_steps;
            e.1 = if stays { end } else { e.1.max(t) };
            size.insert(b, slot.spec.bytes());
        }
        let scratch = scratch_bytes(nodes, s);
        if scratch > 0 {
            p.life.insert(Buffer::Scratch(t), (t, t));
            size.insert(Buffer::Scratch(t), scratch);
        }
    }
    // Inputs nobody reads still have to be settable, and outputs outlive the last step.
    for (r, slot) in rec.slots.iter().enumerate() {
        if matches!(slot.class, Class::Input { .. } | Class::Table(_)) {
            p.life.entry(Buffer::Value(r)).or_insert((0, end)).1 = end;
            size.entry(Buffer::Value(r)).or_insert(slot.spec.bytes());
        }
    }
    for v in outputs.iter().map(|(_, v)| *v).chain(loss) {
        if let Some(l) = p.life.get_mut(&Buffer::Value(rec.slots[v.0].root)) {
            l.1 = end;
        }
    }
    flat(rec, &mut p, steps.iter().any(|s| matches!(s.action, Action::Seed { .. })), &trains);
    let base = p.total_bytes;
    p.naive_bytes = base + size.values().map(|s| round_up(*s)).sum::<usize>();
    first_fit(&mut p, &size, base);
    p
}

/// Elements between the starts of two trainables: 64 bytes of the narrowest type.
pub(super) const FLAT_ALIGN: usize = 32;

/// The trainables in the order they were recorded in, those that lie together behind the first of them: as in a plan that
/// computes nothing again, as long as that leaves together what this one reads as one operand.
fn flat_order(rec: &Recorder, trains: &dyn Fn(usize) -> bool) -> Vec<usize> {
    let together = |s: &Slot| match &s.class {
        Class::Together(all) => Some(all.clone()),
        _ => None,
    };
    let own: Vec<Vec<usize>> = rec.slots.iter().filter_map(together).collect();
    let order = ordered(rec, trains, &rec.rows);
    let places: HashMap<usize, usize> = order.iter().enumerate().map(|(i, r)| (*r, i)).collect();
    let next = |w: &[usize]| match (places.get(&w[0]), places.get(&w[1])) {
        (Some(a), Some(b)) => a + 1 == *b,
        _ => false,
    };
    let whole = own.iter().all(|all| all.windows(2).all(next));
    if whole { order } else { ordered(rec, trains, &own) }
}

/// The trainables, those of a group behind the first of it.
fn ordered(rec: &Recorder, trains: &dyn Fn(usize) -> bool, groups: &[Vec<usize>]) -> Vec<usize> {
    let of: HashMap<usize, &Vec<usize>> =
        groups.iter().flat_map(|g| g.iter().map(move |r| (*r, g))).collect();
    let mut order = vec![];
    for r in (0..rec.slots.len()).filter(|r| rec.slots[*r].root == *r && trains(*r)) {
        match of.get(&r) {
            Some(group) if group.first() == Some(&r) => order.extend(group.iter().copied()),
            Some(_) => {} // behind the first
            None => order.push(r),
        }
    }
    order
}

fn flat(rec: &Recorder, p: &mut Places, backward: bool, trains: &dyn Fn(usize) -> bool) {
    let mut len = 0;
    let mut dtype = DType::F32;
    for r in flat_order(rec, trains) {
        let spec = &rec.slots[r].spec;
        p.flat.push((r, len..len + spec.len()));
        len += spec.len().next_multiple_of(FLAT_ALIGN);
        dtype = spec.dtype;
    }
    p.shadowed = dtype != DType::F32 && len > 0;
    let grad = usize::from(backward);
    let narrow = if p.shadowed { len * dtype.size_bytes() } else { 0 };
    let mut end = 0;
    let mut take = |bytes: usize| {
        let start = end;
        end = start + round_up(bytes);
        start..start + bytes
    };
    p.master = take(len * 4);
    p.grad = take(len * 4 * grad);
    let (shadow, pass_grad) = (take(narrow), take(narrow * grad));
    p.total_bytes = end;
    let (read, written, size) = match p.shadowed {
        true => (shadow.clone(), pass_grad.clone(), dtype.size_bytes()),
        false => (p.master.clone(), p.grad.clone(), 4),
    };
    let alone: HashMap<usize, Range<usize>> = p.flat.iter().cloned().collect();
    let together = rec.slots.iter().enumerate().filter_map(|(r, s)| match &s.class {
        Class::Together(all) => {
            Some((r, alone.get(all.first()?)?.start..alone.get(all.last()?)?.end))
        }
        _ => None,
    });
    for (r, range) in p.flat.iter().cloned().chain(together) {
        let at =
            |base: &Range<usize>| base.start + range.start * size..base.start + range.end * size;
        p.at.insert(Buffer::Value(r), at(&read));
        if backward {
            p.at.insert(Buffer::Grad(r), at(&written));
        }
    }
    let all = [
        (Flats::Master, p.master.clone()),
        (Flats::Grad, p.grad.clone()),
        (Flats::Shadow, shadow),
        (Flats::PassGrad, pass_grad),
    ];
    p.at.extend(all.into_iter().map(|(flat, range)| (Buffer::Flat(flat), range)));
}

fn round_up(bytes: usize) -> usize {
    bytes.div_ceil(ALIGN_BYTES) * ALIGN_BYTES
}

/// Largest first, each at the lowest offset where no buffer with an overlapping life lies.
fn first_fit(p: &mut Places, size: &HashMap<Buffer, usize>, base: usize) {
    let mut order: Vec<(usize, (usize, usize), Buffer)> =
        p.life.iter().map(|(b, l)| (round_up(size[b]), *l, *b)).collect();
    order.sort_by_key(|(s, l, b)| (std::cmp::Reverse(*s), l.0, *b));
    let mut done: Vec<(usize, usize, (usize, usize))> = vec![]; // (offset, size, life), by offset
    for (bytes, life, b) in order {
        let mut at = base;
        for (offset, taken, other) in &done {
            if other.0 > life.1 || life.0 > other.1 {
                continue;
            }
            if at + bytes <= *offset {
                break;
            }
            at = at.max(offset + taken);
        }
        let pos = done.partition_point(|d| d.0 <= at);
        done.insert(pos, (at, bytes, life));
        p.at.insert(b, at..at + size[&b]);
        p.total_bytes = p.total_bytes.max(at + bytes);
    }
}
