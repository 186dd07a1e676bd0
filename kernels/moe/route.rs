//! Which experts a token goes to, and where its rows lie.

use super::{Table, check_experts, cpu, cuda, leading};
use crate::{
    device::{Cuda, Device},
    error::Result,
    kernels::check,
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// Sends every token to the `slots` experts with the greatest logits (ties: the lower expert).
///
/// # Shapes
/// `logits: [.., E]` f32, bf16 or f16; the routing table (see the module) i32.
///
/// # Gradient
/// None: a choice is constant almost everywhere. The weights of the chosen are [`super::Combine`]'s.
///
/// # Numerics
/// Exact: the same table on every device. With `slots = E` the logits are not read.
///
/// # Errors
/// [`crate::error::Error::Shape`] for no slot, more slots than experts, or more than [`super::MAX_EXPERTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Experts a token goes to; all of them is the dense mixture.
    pub slots: usize,
}

impl Route {
    pub(super) fn table(&self, logits: &Spec) -> Table {
        Table { tokens: leading(logits), experts: logits.last(), slots: self.slots }
    }
}

impl Op for Route {
    fn name(&self) -> &'static str {
        "moe_route"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        check::float_inputs(self.name(), ins, &["logits"])?;
        if ins[0].dims.is_empty() || self.slots == 0 || self.slots > ins[0].last() {
            let want = format!("[.., E] with E at least {} and a slot or more", self.slots);
            return Err(check::shape(self.name(), "logits", &ins[0], want));
        }
        check_experts(self.name(), &ins[0])?;
        Ok(Signature::of(self.table(&ins[0]).spec()))
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps::default()
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let flop = (ins[0].len() * self.slots) as f64;
        Cost { flop, bytes: (ins[0].bytes() + out.bytes()) as f64 }
    }

    fn detail(&self) -> String {
        format!("{} slots", self.slots)
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _: &Spec, backward: bool) -> String {
        if backward { String::new() } else { cuda::route::variant(self, cuda, &ins[0]) }
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        match io.device {
            Device::Cpu => {
                check::cpu_dtype(self.name(), io.specs[0].dtype)?;
                cpu::route(self.table(&io.specs[0]), io);
            }
            Device::Cuda(cuda) => return cuda::route::forward(self, cuda, &io),
        }
        Ok(())
    }

    fn backward(&self, _: Backward<'_>) -> Result<()> {
        Ok(())
    }
}
