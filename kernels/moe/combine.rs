//! The experts' rows back as tokens: a weighted sum.

use super::{check_experts, check_table, count, cpu, cuda, extents, floats};
use crate::{
    error::Result,
    kernels::{check, frame},
    op::{Backward, Cost, Forward, Keeps, Op, Signature},
    tensor::Spec,
};

/// `y[t] = sum_s w[t, s] rows[row[t, s]]`, `w[t]` the softmax over the `top_k` greatest logits of the token.
///
/// The softmax runs inside, so that the weights need no launch of their own. With more slots than `top_k` (all
/// experts computed, the dense way for few of them) the others weigh 0; the result is that of routing to
/// `top_k`.
///
/// # Shapes
/// `rows: [R, C]`, `table` of [`super::Route`], `logits: [.., E]` (T tokens, R = T slots), `y: [.., C]`; f32,
/// bf16 or f16.
///
/// # Gradient
/// `drows[row[t, s]] = w[t, s] dy[t]`; with `dw[t, s] = <dy[t], rows[row[t, s]]>`,
/// `dlogit = w (dw - sum_s w dw)`, 0 for an expert that was not chosen. Keeps all three inputs.
///
/// # Numerics
/// Softmax and sums in f32: bitwise the same on every run; the weights of a token sum to 1 within 1e-6.
///
/// # Errors
/// [`crate::error::Error::Shape`] when the table does not fit, for more than [`super::MAX_EXPERTS`], or
/// when `top_k` is 0 or more than the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Combine {
    /// Experts that count for a token.
    pub top_k: usize,
}

impl Op for Combine {
    fn name(&self) -> &'static str {
        "moe_combine"
    }

    fn infer(&self, ins: &[Spec]) -> Result<Signature> {
        count(self.name(), ins, &["rows", "table", "logits"])?;
        floats(self.name(), ins, &["rows", "logits"])?;
        check_experts(self.name(), &ins[2])?;
        let table = extents(&ins[0], &ins[2]);
        let [r, c] = ins[0].dims[..] else {
            return Err(check::shape(self.name(), "rows", &ins[0], "[R, C]".into()));
        };
        let empty = table.tokens == 0 && r == 0;
        if !empty && (r != table.rows() || self.top_k > table.slots) || self.top_k == 0 {
            let want = format!(
                "{} slots or more for each of {} tokens, and a slot or more",
                self.top_k, table.tokens
            );
            return Err(check::shape(self.name(), "rows", &ins[0], want));
        }
        check_table(self.name(), &ins[1], table)?;
        let mut dims = ins[2].dims.clone();
        if let Some(last) = dims.last_mut() {
            *last = c;
        }
        Ok(Signature::of(ins[0].with(&dims)))
    }

    fn keeps(&self, wants: &[bool]) -> Keeps {
        let logits = wants.get(2).copied().unwrap_or(false);
        let ins = if logits { vec![0, 1, 2] } else { vec![1, 2] };
        Keeps { ins, ..Keeps::default() }
    }

    fn cost(&self, ins: &[Spec], out: &Spec) -> Cost {
        let bytes = ins[0].bytes() + out.bytes();
        Cost { flop: 2.0 * ins[0].len() as f64, bytes: bytes as f64 }
    }

    fn detail(&self) -> String {
        format!("top {}", self.top_k)
    }

    fn forward(&self, io: Forward<'_>) -> Result<()> {
        frame::forward(
            self.name(),
            io,
            |io| cpu::combine(self.top_k, io),
            |cuda, io| cuda::combine::forward(self.top_k, cuda, io),
        )
    }

    fn backward(&self, io: Backward<'_>) -> Result<()> {
        frame::backward(
            self.name(),
            io,
            |io| cpu::combine_backward(self.top_k, io),
            |cuda, io| cuda::combine::backward(self.top_k, cuda, io),
        )
    }
}
