//! Tokens copied into rows ordered by expert.

use super::{Table, check_table, count, cpu, cuda, floats, leading};
use crate::{
    error::Result,
    kernels::frame,
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `rows[r] = x[source[r] / slots]`.
///
/// # Shapes
/// `x: [.., C]` (T tokens), `table` of [`super::Route`], `rows: [T slots, C]`; f32, bf16 or f16.
///
/// # Gradient
/// `dx[t] = sum_s drows[row[t, s]]`, a gather; keeps the table.
///
/// # Numerics
/// Sums in f32, in the order of the slots: bitwise the same on every run.
///
/// # Errors
/// [`crate::error::Error::Shape`] when the table is not one of `x`'s tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permute {
    /// Experts there are.
    pub experts: usize,
    /// Experts a token goes to.
    pub slots: usize,
}

impl Op for Permute {
    fn name(&self) -> &'static str {
        "moe_permute"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        count(self.name(), ins, &["x", "table"])?;
        floats(self.name(), ins, &["x"])?;
        let table = Table { tokens: leading(&ins[0]), experts: self.experts, slots: self.slots };
        check_table(self.name(), &ins[1], table)?;
        Ok(Signature::of(ins[0].with(&[table.rows(), ins[0].last()])))
    }

    fn keeps(&self, _: &[bool]) -> Keeps {
        Keeps { ins: vec![1], ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        Cost { flop: 0.0, bytes: (ins[0].bytes() + out.bytes()) as f64 }
    }

    fn detail(&self) -> String {
        format!("{} of {} experts", self.slots, self.experts)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::permute(self.slots, io),
            |cuda, io| cuda::permute::forward(self.slots, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::permute_backward(self.slots, io),
            |cuda, io| cuda::permute::backward(self.slots, cuda, io),
        )
    }
}
