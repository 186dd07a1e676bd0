//! A linear layer an expert, on its own rows.

use super::{Table, check_table, count, cpu, cuda, floats};
use crate::{
    device::Cuda,
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y[r] = w[e] rows[r] + b[e]` for the rows of each expert `e`.
///
/// # Shapes
/// `rows: [R, K]`, `table` of [`super::Route`], `w: [E, N, K]`, `b: [E, N]`, `y: [R, N]`; f32, bf16 or f16.
///
/// # Gradient
/// `drows = dy w[e]`, `dw[e] = sum dy rows^T`, `db[e] = sum dy` over the expert's rows (0 where it has none);
/// keeps rows, table and weights.
///
/// # Numerics
/// Accumulates in f32, every result by one block, in order: bitwise the same on every run.
///
/// # Errors
/// [`crate::error::Error::Shape`] when weights, biases or the table do not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Experts;

impl Op for Experts {
    fn name(&self) -> &'static str {
        "moe_experts"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        count(self.name(), ins, &["rows", "table", "w", "b"])?;
        floats(self.name(), ins, &["rows", "w", "b"])?;
        let ([r, k], [e, n, _]) = (&ins[0].dims[..], &ins[2].dims[..]) else {
            let want = "[R, K], with weights [E, N, K]".into();
            return Err(check::shape(self.name(), "rows", &ins[0], want));
        };
        check::dims(self.name(), "w", &ins[2], &[*e, *n, *k], "(columns of rows)")?;
        check::dims(self.name(), "b", &ins[3], &[*e, *n], "(rows of w)")?;
        check_table(self.name(), &ins[1], Table { tokens: *r, experts: *e, slots: 1 })?;
        Ok(Signature::of(ins[0].with(&[*r, *n])))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let want = |i: usize| wants.get(i).copied().unwrap_or(false);
        let mut ins = vec![1];
        ins.extend(want(2).then_some(0));
        ins.extend(want(0).then_some(2));
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins.iter().map(Spec::bytes).sum::<usize>() + out.bytes();
        Cost { flop: 2.0 * (out.len() * ins[0].last()) as f64, bytes: bytes as f64 }
    }

    fn variant(&self, cuda: &Cuda, ins: &[Spec], _: &Spec, backward: bool) -> String {
        cuda::experts::variant(cuda, ins, backward)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::experts(io),
            |cuda, io| cuda::experts::forward(cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::experts_backward(io),
            |cuda, io| cuda::experts::backward(cuda, io),
        )
    }
}
