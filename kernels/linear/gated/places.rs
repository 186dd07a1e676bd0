//! Where the operands of both operations are, and what lies between their layers.

use crate::{
    error::Result,
    kernels::{check, linear::output},
    tensor::Spec,
};

/// `[v, g]` of the layer `x, w (, b)`.
pub(super) fn sums(at: &str, bias: bool, ins: &[Spec]) -> Result<Spec> {
    let names: &[&'static str] = if bias { &["x", "weight", "bias"] } else { &["x", "weight"] };
    check::product_inputs(at, ins, names)?;
    let sums = output(at, &ins[0], &ins[1], ins.get(2))?;
    if sums.last() % 2 == 1 {
        let want = "[N, K] with an even N, values and gates".into();
        return Err(check::shape(at, "weight", &ins[1], want));
    }
    Ok(sums)
}

/// The values alone of `[v, g]`.
pub(super) fn values(sums: &Spec) -> Spec {
    let mut dims = sums.dims.clone();
    dims.iter_mut().rev().take(1).for_each(|d| *d /= 2);
    sums.with(&dims)
}

/// Where an operand of a feed-forward block is among its inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    /// The first layer's bias; `x` is 0, its weight 1.
    pub first_bias: Option<usize>,
    /// The second layer's weight.
    pub weight: usize,
    pub second_bias: Option<usize>,
    pub residual: Option<usize>,
    /// How many there are.
    pub count: usize,
}

impl Places {
    pub fn of(bias: [bool; 2], residual: bool) -> Self {
        let [first, second] = bias.map(usize::from);
        Self {
            first_bias: bias[0].then_some(2),
            weight: 2 + first,
            second_bias: bias[1].then_some(3 + first),
            residual: residual.then_some(3 + first + second),
            count: 3 + first + second + usize::from(residual),
        }
    }

    /// `[v, g]` for the inputs `ins`, of which there are enough.
    pub fn sums(self, ins: &[Spec]) -> Result<Spec> {
        sums("linear", self.first_bias.is_some(), &ins[..self.weight])
    }
}
