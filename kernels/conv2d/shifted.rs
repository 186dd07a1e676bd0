//! A convolution with one more number for every image and channel.

use super::{Conv2d, cpu, cuda};
use crate::{
    device::{BufMut, Cuda, Device, Touched},
    error::{Error, Result},
    kernels::{add, check},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// A [`Conv2d`] and the sum behind it: the time embedding of a residual block.
///
/// `y[n, i, j, o] = conv[n, i, j, o] + t[n, o]`
///
/// # Shapes
/// Those of [`Conv2d`], then `t: [N, O]`.
///
/// # Gradient
/// `dt` = sum of `dy` over the pixels of an image; the others as [`Conv2d`].
///
/// # Numerics
/// As [`Conv2d`]: on a GPU `t` is added before the one rounding, on the CPU behind it.
///
/// # Errors
/// As [`Conv2d`]; other dims of `t`.
///
/// # Source
/// methods.md §3.1 (`time_emb_proj`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShiftedConv2d {
    /// As [`Conv2d::stride`].
    pub stride: usize,
    /// As [`Conv2d::pad`].
    pub pad: [usize; 4],
    /// As [`Conv2d::bias`].
    pub bias: bool,
    /// As [`Conv2d::upsample`].
    pub upsample: bool,
}

impl From<Conv2d> for ShiftedConv2d {
    fn from(Conv2d { stride, pad, bias, upsample }: Conv2d) -> Self {
        Self { stride, pad, bias, upsample }
    }
}

/// The operands of the convolution, and those of the sum behind it.
fn split<T>(all: &[T]) -> (&[T], Option<&T>) {
    all.split_last().map_or((all, None), |(last, others)| (others, Some(last)))
}

impl ShiftedConv2d {
    fn conv(self) -> Conv2d {
        let Self { stride, pad, bias, upsample } = self;
        Conv2d { stride, pad, bias, upsample }
    }
}

impl Op for ShiftedConv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let (own, shifts) = split(ins);
        let (Some(t), true) = (shifts, own.len() >= 2) else {
            let problem = format!("{} inputs, expected x, weight, bias, t", ins.len());
            return Err(Error::Plan { at: self.name().into(), problem });
        };
        let mut signature = self.conv().infer(own)?;
        let out = &signature.out;
        check::dims(self.name(), "t", t, &[out.dims[0], out.last()], "(images, channels of y)")?;
        if t.dtype != out.dtype {
            let (at, got) = (format!("{}: t", self.name()), t.dtype.to_string());
            return Err(Error::DType { at, got, want: out.dtype.to_string() });
        }
        let sums = add::channel_scratch(out, t);
        signature.backward_scratch = signature.backward_scratch.max(sums);
        Ok(signature)
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        self.conv().keeps(wants)
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        self.conv().cost(ins, out)
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let conv = self.conv().backward_cost(split(ins).0, out, split(wants).0);
        let read = if split(wants).1 == Some(&true) { out.bytes() as f64 } else { 0.0 };
        Cost { bytes: conv.bytes + read, ..conv }
    }

    fn detail(&self) -> String {
        format!("{} + t", self.conv().detail())
    }

    fn variant(&self, cuda: &Cuda, specs: &[Spec], out: &Spec, backward: bool) -> String {
        self.conv().variant(cuda, split(specs).0, out, backward)
    }

    fn forward(&self, mut io: Forward<'_>) -> Result<()> {
        let (specs, t) = split(io.specs);
        let (Some(t), Some(shifts)) = (t, io.ins.pop()) else { return Ok(()) };
        let s = self.conv().shape(&specs[0], &specs[1], io.out_spec);
        io.specs = specs;
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.out_spec.dtype)?;
                let columns = io.out_spec.last();
                let Forward { device, out_spec, ins, mut out, saved, scratch, .. } = io;
                let own = BufMut::Host(out.raw());
                cpu::forward(
                    &s,
                    Forward { device, specs, out_spec, ins, out: own, saved, scratch },
                );
                add::shift(out.f32(), shifts.f32(), columns);
                Ok(())
            }
            Device::Cuda(cuda) => {
                check::gpu_weight(self.name(), specs)?;
                let shifts = Touched::new("t", shifts.address(), t);
                cuda::forward(&s, cuda, &io, Some(shifts))
            }
        }
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        add::shift_gradient(&mut io)?;
        self.conv().backward(io)
    }
}
