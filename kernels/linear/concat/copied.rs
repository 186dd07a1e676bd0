//! Through a copy of both parts side by side: the CPU, and chips without kernels that read them where they are.

use super::ConcatLinear;
use crate::{
    device::Device,
    error::Result,
    kernels::{concat::Concat, linear::Linear},
    op::{Backward, Buf, BufMut, Forward, Grad, GradMode, Op},
    tensor::Spec,
};

/// Bytes of the copy `x`, what follows it aligned.
pub(super) fn bytes(x: &Spec) -> usize {
    x.bytes().next_multiple_of(256)
}

/// The copy in `scratch`, and what is behind it.
fn split<'a>(scratch: BufMut<'a>, x: &Spec) -> (BufMut<'a>, BufMut<'a>) {
    let (copy, behind) = scratch.split_at(bytes(x));
    (copy.split_at(x.bytes()).0, behind)
}

fn nothing() -> BufMut<'static> {
    BufMut::Host(&mut [])
}

/// Makes the copy `out`, like `x`, of the first two of the operands.
fn copy(
    device: &Device,
    (specs, ins): (&[Spec], &[Buf<'_>]),
    x: &Spec,
    out: BufMut<'_>,
) -> Result<()> {
    let (ins, saved, scratch) = (ins[..2].to_vec(), vec![], nothing());
    Concat.forward(Forward { device, specs: &specs[..2], out_spec: x, ins, out, saved, scratch })
}

pub(super) fn forward(op: ConcatLinear, io: Forward<'_>) -> Result<()> {
    let whole = op.whole(io.specs)?;
    let (mut x, scratch) = split(io.scratch, &whole[0]);
    copy(io.device, (io.specs, &io.ins), &whole[0], x.lent())?;
    op.layer().forward(Forward {
        device: io.device,
        specs: &whole,
        out_spec: io.out_spec,
        ins: [&[x.read()], &io.ins[2..]].concat(),
        out: io.out,
        saved: vec![],
        scratch,
    })
}

/// One backward call for some of the gradients.
struct Call<'a> {
    device: &'a Device,
    specs: &'a [Spec],
    out_spec: &'a Spec,
    d_out: Buf<'a>,
}

impl Call<'_> {
    fn run(
        &self,
        op: &dyn Op,
        ins: Vec<Buf<'_>>,
        d_ins: Vec<Grad<'_>>,
        scratch: BufMut<'_>,
    ) -> Result<()> {
        let Call { device, specs, out_spec, d_out } = *self;
        let (out, saved) = (Buf::EMPTY, vec![]);
        op.backward(Backward { device, specs, out_spec, ins, out, saved, d_out, d_ins, scratch })
    }
}

/// The gradients of a layer whose residual has been served: first those of the parts, then those of the parameters.
pub(super) fn backward(op: ConcatLinear, mut io: Backward<'_>) -> Result<()> {
    let (op, layer) = (ConcatLinear { residual: false, ..op }, Linear { bias: op.bias });
    let whole = op.whole(io.specs)?;
    let (mut x, mut scratch) = split(io.scratch, &whole[0]);
    let parameters = io.d_ins.split_off(2);
    let skipped = || Grad { mode: GradMode::Skip, buf: nothing() };
    let (device, d_out) = (io.device, io.d_out);
    let of_layer = Call { device, specs: &whole, out_spec: io.out_spec, d_out };
    if io.d_ins.iter().any(Grad::wanted) {
        let dx = Grad { mode: GradMode::Overwrite, buf: x.lent() };
        let d_ins = [dx].into_iter().chain(parameters.iter().map(|_| skipped())).collect();
        let ins = [&[Buf::EMPTY], &io.ins[2..]].concat();
        of_layer.run(&layer, ins, d_ins, scratch.lent())?;
        let of_parts = Call { device, specs: &io.specs[..2], out_spec: &whole[0], d_out: x.read() };
        of_parts.run(&Concat, vec![Buf::EMPTY; 2], io.d_ins, nothing())?;
    }
    if !parameters.iter().any(Grad::wanted) {
        return Ok(());
    }
    if parameters[0].wanted() {
        copy(device, (io.specs, &io.ins), &whole[0], x.lent())?;
    }
    let d_ins = [skipped()].into_iter().chain(parameters).collect();
    of_layer.run(&layer, [&[x.read()], &io.ins[2..]].concat(), d_ins, scratch)
}
