//! One step of a program: its operands become the call of an operation.

use super::{Action, Plan, Step, Value};
use crate::{
    device::{Buf, BufMut, Device, nvtx},
    error::Result,
    kernels::{cast::Cast, recorded},
    op::{Backward, Forward, Grad, GradMode, Op as _},
    tensor::Spec,
};

/// Runs one step; `first` starts the trainables' gradients anew.
pub(super) fn run_step<'a>(
    plan: &'a Plan,
    device: &'a Device,
    step: &'a Step,
    first: bool,
    reads: &mut dyn Iterator<Item = Buf<'a>>,
    writes: &mut dyn Iterator<Item = BufMut<'a>>,
) -> Result<()> {
    let none = || BufMut::Host(&mut []);
    let _range = nvtx::range(|| match &step.action {
        Action::Forward | Action::Again => plan.nodes[step.node].scope.clone(),
        Action::Backward { .. } => format!("backward of {}", plan.nodes[step.node].scope),
        _ => "gradients".into(),
    });
    let (modes, keeps) = match &step.action {
        Action::Seed { mode, .. } => {
            let given = reads.next().unwrap_or(Buf::EMPTY);
            let grad = writes.next().unwrap_or_else(none);
            return seed(device, &plan.rec.slots[step.node].spec, given, grad, *mode);
        }
        Action::Shadow => return shadow(plan, device, reads, writes),
        Action::Collect => return collect(plan, device, first, reads, writes),
        Action::Forward | Action::Again => {
            let n = &plan.nodes[step.node];
            let ins: Vec<Buf<'_>> = reads.take(n.ins.len()).collect();
            recorded::before(device, &n.scope, &*n.op, &n.specs, &ins)?;
            let out = writes.next().unwrap_or_else(none);
            let saved = writes.take(n.saved.len()).collect();
            let scratch = writes.next().unwrap_or_else(none);
            let (specs, out_spec) = (&n.specs[..], &n.signature.out);
            return n.op.forward(Forward { device, specs, out_spec, ins, out, saved, scratch });
        }
        Action::Backward { keeps, modes } => (modes, keeps),
    };
    let n = &plan.nodes[step.node];
    let ins = reads.take(n.ins.len()).collect();
    let out = reads.next().unwrap_or(Buf::EMPTY);
    let saved = if keeps.saved { reads.take(n.saved.len()).collect() } else { vec![] };
    let d_out = reads.next().unwrap_or(Buf::EMPTY);
    let trained = |v: &Value| {
        let root = plan.rec.slots[v.0].root;
        plan.rec.slots[root].class.is_trained()
    };
    let d_ins = (n.ins.iter().zip(modes))
        .map(|(v, mode)| match mode {
            GradMode::Skip => Grad { mode: *mode, buf: none() },
            GradMode::Overwrite if !first && !plan.places.shadowed && trained(v) => {
                Grad { mode: GradMode::Accumulate, buf: writes.next().unwrap_or_else(none) }
            }
            _ => Grad { mode: *mode, buf: writes.next().unwrap_or_else(none) },
        })
        .collect();
    let scratch = writes.next().unwrap_or_else(none);
    let (specs, out_spec) = (&n.specs[..], &n.signature.out);
    let io = Backward { device, specs, out_spec, ins, out, saved, d_out, d_ins, scratch };
    n.op.backward(io)
}

/// The cast between the master weights and what the operations read, with both specs.
fn flat_cast(plan: &Plan) -> (Cast, Spec, Spec) {
    let to = plan.rec.dtype();
    let len = plan.places.master.len() / 4;
    (Cast { to }, Spec::f32(&[len]), Spec::new(&[len], to))
}

fn shadow<'a>(
    plan: &'a Plan,
    device: &'a Device,
    reads: &mut dyn Iterator<Item = Buf<'a>>,
    writes: &mut dyn Iterator<Item = BufMut<'a>>,
) -> Result<()> {
    let (cast, master, narrow) = flat_cast(plan);
    cast.forward(Forward {
        device,
        specs: &[master],
        out_spec: &narrow,
        ins: reads.collect(),
        out: writes.next().unwrap_or(BufMut::Host(&mut [])),
        saved: vec![],
        scratch: BufMut::Host(&mut []),
    })
}

fn collect<'a>(
    plan: &'a Plan,
    device: &'a Device,
    first: bool,
    reads: &mut dyn Iterator<Item = Buf<'a>>,
    writes: &mut dyn Iterator<Item = BufMut<'a>>,
) -> Result<()> {
    let (cast, master, narrow) = flat_cast(plan);
    let mode = if first { GradMode::Overwrite } else { GradMode::Accumulate };
    let buf = writes.next().unwrap_or(BufMut::Host(&mut []));
    cast.backward(Backward {
        device,
        specs: &[master],
        out_spec: &narrow,
        ins: vec![Buf::EMPTY],
        out: Buf::EMPTY,
        saved: vec![],
        d_out: reads.next().unwrap_or(Buf::EMPTY),
        d_ins: vec![Grad { mode, buf }],
        scratch: BufMut::Host(&mut []),
    })
}

/// Puts the given gradient into the seeded value's: a cast to its own type, which overwrites or adds.
fn seed<'a>(
    device: &'a Device,
    spec: &Spec,
    given: Buf<'a>,
    grad: BufMut<'a>,
    mode: GradMode,
) -> Result<()> {
    let cast = Cast { to: spec.dtype };
    cast.backward(Backward {
        device,
        specs: std::slice::from_ref(spec),
        out_spec: spec,
        ins: vec![Buf::EMPTY],
        out: Buf::EMPTY,
        saved: vec![],
        d_out: given,
        d_ins: vec![Grad { mode, buf: grad }],
        scratch: BufMut::Host(&mut []),
    })
}
