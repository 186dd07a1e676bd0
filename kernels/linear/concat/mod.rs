//! A fully connected layer on two tensors side by side.

mod copied;
mod cuda;

use super::fused::{FusedLinear, Then};
use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::{
        add::{self, Add},
        check, concat,
    },
    op::{Backward, Cost, Forward, GradMode, Keeps, Later, Op, Signature},
    tensor::Spec,
};
use std::any::Any;

/// A fully connected layer on two tensors side by side, and a residual: the shortcut of a residual block that a skip connection
/// enters.
///
/// `y[i, n] = sum_k a[i, k] w[n, k] + sum_k b[i, k] w[n, A + k] + bias[n] + r[i, n]`
///
/// # Shapes
/// `a: [.., A]`, `b: [.., B]`, `w: [N, A + B]`, `bias: [N]` (only with `bias`), `r` as `y` (only with `residual`), the last
/// input; `y: [.., N]`; all of one float type. On the CPU a frozen `w` may be bf16 or f16 beside f32.
///
/// # Gradient
/// `da = dy w[:, :A]`, `db = dy w[:, A:]`, `dw = dy^T [a, b]`, `dbias = sum_i dy[i]`, `dr = dy`. Keeps `w` for the first two, `a`
/// and `b` for `dw`.
///
/// # Numerics
/// As [`Linear`](super::Linear): one sum in f32, rounded once.
///
/// # Errors
/// `infer` refuses what [`Linear`](super::Linear) does, and parts with other leading axes.
///
/// # Source
/// diffusers' `ResnetBlock2D` behind `torch.cat`; on Hopper both parts are read where they are, elsewhere they are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConcatLinear {
    /// Whether the fourth input is a bias.
    pub bias: bool,
    /// Whether the last input is added.
    pub residual: bool,
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<crate::kernels::variant::Slot> {
    cuda::slots()
}

impl ConcatLinear {
    /// The layer on one tensor.
    fn layer(self) -> FusedLinear {
        FusedLinear { bias: self.bias, residual: self.residual, then: Then::Nothing }
    }

    /// The inputs of [`ConcatLinear::layer`].
    fn whole(self, ins: &[Spec]) -> Result<Vec<Spec>> {
        let at = self.name();
        let wanted = 3 + usize::from(self.bias) + usize::from(self.residual);
        let names = ["a", "b", "weight", "bias", "residual"];
        if ins.len() != wanted {
            return check::float_inputs(at, ins, &names[..wanted]).map(|_| vec![]);
        }
        check::float_inputs(at, &ins[..2], &names[..2])?;
        let x = concat::joined(at, &ins[0], &ins[1])?;
        Ok([&[x], &ins[2..]].concat())
    }
}

impl Op for ConcatLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let whole = self.whole(ins)?;
        let one = self.layer().infer(&whole)?;
        let copy = copied::bytes(&whole[0]);
        let forward = one.forward_scratch.saturating_add(copy);
        Ok(Signature {
            forward_scratch: forward.max(cuda::forward_scratch(ins, &one.out)),
            backward_scratch: (one.backward_scratch.saturating_add(copy))
                .max(cuda::backward_scratch(ins, &one.out)),
            ..one
        })
    }

    fn followed_by(&self, next: &dyn Op, _: usize, _: Later) -> Option<Box<dyn Op>> {
        let sum = (next as &dyn Any).is::<Add>() && !self.residual;
        sum.then(|| Box::new(Self { residual: true, ..*self }) as Box<dyn Op>)
    }

    fn passes(&self) -> &'static [usize] {
        match (self.residual, self.bias) {
            (false, _) => &[],
            (true, false) => &[3],
            (true, true) => &[4],
        }
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let mut keeps = Keeps::default();
        if wants[2] {
            keeps.ins.extend([0, 1]);
        }
        if wants[0] || wants[1] {
            keeps.ins.push(2);
        }
        keeps
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        Cost { flop: 2.0 * out.len() as f64 * ins[2].last() as f64, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let one = self.cost(ins, out);
        let (inputs, weight) = (wants[0] || wants[1], wants[2]);
        let products = f64::from(u8::from(inputs) + u8::from(weight));
        Cost { flop: one.flop * products, bytes: one.bytes * products }
    }

    fn detail(&self) -> String {
        if self.residual { "of two parts, residual".into() } else { "of two parts".into() }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        match (cuda::Native::of(cuda, ins, out), self.whole(ins)) {
            (Ok(Some(native)), _) => native.describe(cuda, backward),
            (Ok(None), Ok(whole)) => {
                format!("copied: {}", self.layer().variant(cuda, &whole, out, backward))
            }
            _ => "none".into(),
        }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        if let Device::Cuda(cuda) = io.device {
            check::gpu_weight(self.name(), &io.specs[1..])?;
            if let Some(native) = cuda::Native::of(cuda, io.specs, io.out_spec)? {
                return native.forward(*self, cuda, &io);
            }
        }
        copied::forward(*self, io)
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        check::frozen_half(self.name(), &io.specs[1..], io.d_ins[2].wanted())?;
        if self.residual {
            add::residual_gradient(&mut io)?;
        }
        if let Device::Cuda(cuda) = io.device {
            check::gpu_weight(self.name(), &io.specs[1..])?;
            if let Some(native) = cuda::Native::of(cuda, io.specs, io.out_spec)? {
                native.input_gradients(cuda, &io)?;
                io.d_ins[..2].iter_mut().for_each(|g| g.mode = GradMode::Skip);
            }
        }
        copied::backward(*self, io)
    }
}
