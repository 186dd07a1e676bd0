//! Normalisation over groups of channels, optionally with SiLU.

mod backward;
pub mod cases;
mod cluster;
mod cpu;
pub mod cuda;
mod problem;

use crate::{
    device::Cuda,
    error::Result,
    kernels::{check, concat, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Group normalisation, channels last, with an optional fused SiLU; of one tensor or of two side by side.
///
/// `z = (x - mean) rstd gamma + beta`, `rstd = 1 / sqrt(var + eps)` over all positions and the
/// `C / groups` channels of a group; `y = z` or, with `silu`, `y = z sigmoid(z)`.
///
/// # Shapes
/// `x: [N, .., C]`, `gamma, beta: [C]` gives `[N, .., C]`, of one float type. With `concat` in place of `x` come
/// `a: [N, .., A]` and `b: [N, .., C - A]`, its columns in order: a U-Net's skip connection, which nobody joins. Saves mean
/// and rstd, `[N, groups]` f32 each.
///
/// # Gradient
/// `dz = dy s (1 + z (1 - s))` with `s = sigmoid(z)` recomputed. With `h = (x - mean) rstd` and
/// means over the group: `dx = rstd (gamma dz - mean(gamma dz) - h mean(gamma dz h))`,
/// `dgamma = sum dz h`, `dbeta = sum dz`. Keeps `x`, the statistics, `gamma`, and `beta` with
/// `silu`.
///
/// # Numerics
/// Statistics in f32 for every storage type: means and squared distances by blocks of rows, merged
/// in f64 (Chan et al. 1979) in an order that the shape fixes: bitwise repeatable on the CPU and on
/// every chip.
///
/// # Errors
/// `infer` refuses `x` without channels, channels that the groups do not divide, a `gamma` or
/// `beta` of another length, and parts with other leading axes.
///
/// # Source
/// Wu & He 2018, eq. 1 to 7.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNorm {
    /// Number of groups.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Whether `x` comes in two parts.
    pub concat: bool,
}

impl GroupNorm {
    /// Inputs that `x` consists of.
    fn parts(self) -> usize {
        if self.concat { 2 } else { 1 }
    }

    /// Which input `gamma` is.
    fn gamma(self) -> usize {
        self.parts()
    }

    /// Which input `beta` is.
    fn beta(self) -> usize {
        self.parts() + 1
    }
}

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<super::variant::Slot> {
    cuda::slots()
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        let at = self.name();
        let x = if self.concat {
            check::float_inputs(at, ins, &["a", "b", "gamma", "beta"])?;
            let mut parts = ["a", "b"].into_iter().zip(ins);
            if let Some((what, part)) = parts.find(|(_, s)| s.last() == 0) {
                return Err(check::shape(at, what, part, "[N, .., C] with channels".into()));
            }
            concat::joined(at, &ins[0], &ins[1])?
        } else {
            check::float_inputs(at, ins, &["x", "gamma", "beta"])?;
            ins[0].clone()
        };
        let (x, c) = (&x, x.last());
        if x.dims.len() < 2 || x.is_empty() || self.groups == 0 || !c.is_multiple_of(self.groups) {
            let want = format!("[N, .., C], not empty, C a multiple of {} groups", self.groups);
            return Err(check::shape(at, "x", x, want));
        }
        check::dims(at, "gamma", &ins[self.gamma()], &[c], "as the channels of x")?;
        check::dims(at, "beta", &ins[self.beta()], &[c], "as the channels of x")?;
        let stats = Spec::f32(&[x.dims[0], self.groups]);
        let (shape, device) = (cpu::Shape::of(x, self.groups), cuda::scratch(x, self.groups));
        Ok(Signature {
            out: x.clone(),
            saved: vec![stats.clone(), stats],
            forward_scratch: shape.scratch(2).max(device),
            backward_scratch: shape.scratch(backward::TABLES).max(device),
        })
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        if !wants.contains(&true) || (!self.silu && !wants[..=self.gamma()].contains(&true)) {
            return Keeps::default();
        }
        let last = if self.silu { self.beta() } else { self.gamma() };
        Keeps { ins: (0..=last).collect(), out: false, saved: true }
    }

    fn cost(&self, _: &[Spec], out: &Spec) -> Cost {
        let flop = if self.silu { 20.0 } else { 7.0 };
        Cost { flop: flop * out.len() as f64, bytes: 2.0 * out.bytes() as f64 }
    }

    fn backward_cost(&self, _: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let tensors = if wants[..self.parts()].contains(&true) { 3.0 } else { 2.0 };
        let flop = if self.silu { 50.0 } else { 12.0 };
        Cost { flop: flop * out.len() as f64, bytes: tensors * out.bytes() as f64 }
    }

    fn detail(&self) -> String {
        let silu = if self.silu { " silu" } else { "" };
        let concat = if self.concat { " of two parts" } else { "" };
        format!("groups {} eps {:e}{silu}{concat}", self.groups, self.eps)
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        let name = ins.first().map(|x| cuda::name(*self, cuda, (x, out), backward));
        name.and_then(Result::ok).unwrap_or_default().into()
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::forward(*self, io),
            |cuda, io| cuda::forward(*self, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| backward::backward(*self, io),
            |cuda, io| cuda::backward(*self, cuda, io),
        )
    }
}
