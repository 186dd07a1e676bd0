//! A fully connected layer with what follows it.

mod cpu;
mod cuda;

use super::{Linear, output};
use crate::{
    device::{Cuda, Device},
    error::{Error, Result},
    kernels::{
        activation::{Activation, Kind},
        add::{self, Add},
        check,
        geglu::Geglu,
    },
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};
use std::any::Any;

/// What is done to `x w^T + b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// `f(h)`.
    Activation(Kind),
    /// `value gelu(gate)`, the two halves of `h`'s columns.
    Geglu,
}

/// A fully connected layer, its activation and a residual in one pass.
///
/// `y = f(x w^T + b) + r`, or `y = value gelu(gate) + r` with `[value, gate] = x w^T + b`
///
/// # Shapes
/// `x: [.., K]`, `w: [N, K]`, `b: [N]` (only with `bias`), `r` as `y` (only with `residual`), the last input;
/// `y: [.., N]`, of GEGLU `[.., N / 2]`; all of one float type. On the CPU `w` may be bf16 or f16 beside f32.
///
/// # Gradient
/// Without an activation that of [`Linear`], and `dr = dy`. With one none: backward would need `h`, which is not kept. A plan
/// that trains through it is refused; record [`Linear`], the activation and the addition apart.
///
/// # Numerics
/// As [`Linear`]: f32 from the sums to the one rounding of `y`; on a GPU without a fused kernel `h` is rounded too.
///
/// # Errors
/// `infer` refuses what [`Linear`] does, an odd width of GEGLU, and a residual of another shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FusedLinear {
    /// Whether the third input is a bias.
    pub bias: bool,
    /// Whether the last input is added.
    pub residual: bool,
    /// What is done before that.
    pub then: Then,
}

impl FusedLinear {
    fn names(self) -> &'static [&'static str] {
        match (self.bias, self.residual) {
            (true, true) => &["x", "weight", "bias", "residual"],
            (true, false) => &["x", "weight", "bias"],
            (false, true) => &["x", "weight", "residual"],
            (false, false) => &["x", "weight"],
        }
    }

    /// The layer without what follows it; its inputs are the first ones of this.
    fn layer(self) -> Linear {
        Linear { bias: self.bias }
    }

    /// Inputs of the layer itself.
    fn own(self) -> usize {
        2 + usize::from(self.bias)
    }

    fn refusal(self) -> Error {
        Error::Plan { at: self.name().into(), problem: FORWARD_ONLY.into() }
    }
}

/// A layer and what alone reads its result, as one: GEGLU, an activation, a residual sum; the sum alone where a `backward` pass
/// can follow.
pub(super) fn behind(bias: bool, next: &dyn Op, backward: bool) -> Option<FusedLinear> {
    let next: &dyn Any = next;
    let (residual, then) = match (next.downcast_ref::<Activation>(), next.is::<Geglu>()) {
        (Some(Activation { kind }), _) => (false, Then::Activation(*kind)),
        (None, true) => (false, Then::Geglu),
        (None, false) if next.is::<Add>() => (true, Then::Nothing),
        (None, false) => return None,
    };
    let op = FusedLinear { bias, residual, then };
    (!backward || op.forward_only().is_none()).then_some(op)
}

const FORWARD_ONLY: &str = "a fused activation has no backward pass (what it got is not kept); \
                            record linear, the activation and add apart where gradients are wanted";

/// What `--variant` can choose here.
pub(super) fn slots() -> Vec<crate::kernels::variant::Slot> {
    cuda::slots()
}

impl Op for FusedLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        if let Then::Activation(kind @ (Kind::Tanh | Kind::Elu | Kind::Sigmoid)) = self.then {
            let problem =
                format!("{kind:?} is not computed behind a product; record it on its own");
            return Err(Error::Plan { at: self.name().into(), problem });
        }
        check::product_inputs("linear", ins, self.names())?;
        let bias = if self.bias { ins.get(2) } else { None };
        let h = output("linear", &ins[0], &ins[1], bias)?;
        let mut out = h.clone();
        if self.then == Then::Geglu {
            if h.last() % 2 == 1 {
                let want = "[N, K] with an even N, values and gates".into();
                return Err(check::shape("linear", "weight", &ins[1], want));
            }
            out.dims.pop();
            out.dims.push(h.last() / 2);
        }
        if self.residual {
            check::dims("linear", "residual", &ins[ins.len() - 1], &out.dims, "as the output")?;
        }
        let device = cuda::scratch(*self, &ins[0], &h);
        let stored = check::stored_weight(ins);
        let forward_scratch = cpu::scratch(*self, &ins[0], &h, stored).max(device);
        let backward_scratch = match self.forward_only() {
            None => self.layer().infer(&ins[..self.own()])?.backward_scratch,
            Some(_) => 0,
        };
        Ok(Signature { forward_scratch, backward_scratch, ..Signature::of(out) })
    }

    fn forward_only(&self) -> Option<&'static str> {
        (self.then != Then::Nothing).then_some(FORWARD_ONLY)
    }

    fn passes(&self) -> &'static [usize] {
        match (self.residual, self.bias) {
            (false, _) => &[],
            (true, false) => &[2],
            (true, true) => &[3],
        }
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        if self.then == Then::Nothing { self.layer().keeps(wants) } else { Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().chain([out]).map(|s| s.bytes() as f64).sum();
        let columns = ins[1].dims[0] as f64;
        let rows = super::rows(&ins[0]) as f64;
        Cost { flop: 2.0 * rows * columns * ins[0].last() as f64, bytes }
    }

    fn backward_cost(&self, ins: &[Spec], out: &Spec, wants: &[bool]) -> Cost {
        let (layer, residual) = wants.split_at(self.own().min(wants.len()));
        let one = self.layer().backward_cost(&ins[..self.own()], out, layer);
        let copied = if residual.contains(&true) { 2.0 * out.bytes() as f64 } else { 0.0 };
        Cost { bytes: one.bytes + copied, ..one }
    }

    fn detail(&self) -> String {
        let then = match self.then {
            Then::Nothing => String::new(),
            Then::Activation(kind) => format!("{kind:?}"),
            Then::Geglu => "GEGLU".into(),
        };
        match (then.is_empty(), self.residual) {
            (true, true) => "residual".into(),
            (false, true) => format!("{then}, residual"),
            (_, false) => then,
        }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], out: &Spec, backward: bool) -> String {
        if backward {
            return self.layer().variant(cuda, &ins[..self.own()], out, true);
        }
        cuda::describe(*self, cuda, &ins[0], &ins[1])
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => cpu::forward(*self, io),
            Device::Cuda(cuda) => {
                check::gpu_weight(self.name(), io.specs)?;
                return cuda::forward(*self, &cuda.clone(), &io);
            }
        }
        Ok(())
    }

    fn backward(&self, mut io: Backward<'_>) -> Result<()> {
        if self.then != Then::Nothing {
            return Err(self.refusal());
        }
        if self.residual {
            add::residual_gradient(&mut io)?;
        }
        self.layer().backward(io)
    }
}
