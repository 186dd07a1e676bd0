//! Residual sums.

pub mod cases;
mod cpu;
mod cuda;

use crate::{
    device::Device,
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Grad, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y = a + b`.
///
/// # Shapes
/// `a, b, y` the same; f32, bf16 or f16.
/// # Gradient
/// `da = dy`, `db = dy`; keeps nothing.
/// # Errors
/// Different dims.
#[derive(Clone, Copy, Debug)]
pub struct Add;

/// `y[n, .., c] = x[n, .., c] + e[n, c]`: the time embedding of a residual block.
///
/// # Shapes
/// `x: [N, .., C]`, `e: [N, C]`; f32, bf16 or f16.
/// # Gradient
/// `dx = dy`, `de` = sum of `dy` over the middle axes; keeps nothing.
/// # Errors
/// Other dims of `e`.
/// # Source
/// methods.md §3.1 (`time_emb_proj`).
#[derive(Clone, Copy, Debug)]
pub struct AddChannels;

/// `dr = dy` for a residual `r`, the last input of an operation that adds it to its result; leaves `io` to that operation
/// without the residual.
///
/// # Errors
/// As [`Op::backward`].
pub(crate) fn residual_gradient(io: &mut Backward<'_>) -> Result<()> {
    io.ins.pop();
    io.specs = io.specs.split_last().map_or(io.specs, |(_, others)| others);
    let Some(grad) = io.d_ins.pop().filter(Grad::wanted) else { return Ok(()) };
    match io.device {
        Device::Cpu => cpu::pass_on(grad, io.d_out.f32()),
        Device::Cuda(cuda) => return cuda::pass_on(cuda, (io.d_out, io.out_spec), &[grad]),
    }
    Ok(())
}

/// `y[n, .., c] += t[n, c]` for rows of `columns` numbers.
pub(crate) fn shift(y: &mut [f32], t: &[f32], columns: usize) {
    cpu::shift(y, t, columns);
}

/// Scratch of [`shift_gradient`] on a GPU, bytes.
pub(crate) fn channel_scratch(y: &Spec, t: &Spec) -> usize {
    cuda::scratch_bytes(y, t)
}

/// `dt[n, c]` = sum of `dy` over the middle axes, for the last input of an operation that adds it to its result; leaves `io`
/// to that operation without it.
///
/// # Errors
/// As [`Op::backward`].
pub(crate) fn shift_gradient(io: &mut Backward<'_>) -> Result<()> {
    io.ins.pop();
    let (t, others) = io.specs.split_last().map_or((None, io.specs), |(t, o)| (Some(t), o));
    io.specs = others;
    let (Some(grad), Some(t)) = (io.d_ins.pop().filter(Grad::wanted), t) else { return Ok(()) };
    match io.device {
        Device::Cpu => cpu::channel_sums(grad, io.d_out.f32(), t.last()),
        Device::Cuda(cuda) => {
            let dy = (io.d_out, io.out_spec);
            return cuda::channel_sums(cuda, dy, (&grad, t), io.scratch.address());
        }
    }
    Ok(())
}

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["a", "b"])?;
        check::dims(self.name(), "b", &ins[1], &ins[0].dims, "(as a)")?;
        Ok(Signature::of(ins[0].clone()))
    }
    fn passes(&self) -> &'static [usize] {
        &[0, 1]
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: ins[0].len() as f64, bytes: 3.0 * ins[0].bytes() as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(self.name(), io, |io| cpu::add(io), |cuda, io| cuda::add(cuda, io))
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::add_backward(io),
            |cuda, io| cuda::add_backward(cuda, io),
        )
    }
}

impl Op for AddChannels {
    fn name(&self) -> &'static str {
        "add_channels"
    }
    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["x", "e"])?;
        let want = [ins[0].dims.first().copied().unwrap_or(1), ins[0].last()];
        check::dims(self.name(), "e", &ins[1], &want, "(first and last axis of x)")?;
        let backward_scratch = cuda::scratch_bytes(&ins[0], &ins[1]);
        Ok(Signature { backward_scratch, ..Signature::of(ins[0].clone()) })
    }
    fn passes(&self) -> &'static [usize] {
        &[0]
    }
    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }
    fn cost(&self, ins: &[Spec], _: &Spec) -> Cost {
        Cost { flop: ins[0].len() as f64, bytes: 2.0 * ins[0].bytes() as f64 }
    }
    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::add_channels(io),
            |cuda, io| cuda::add_channels(cuda, io),
        )
    }
    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::add_channels_backward(io),
            |cuda, io| cuda::add_channels_backward(cuda, io),
        )
    }
}
