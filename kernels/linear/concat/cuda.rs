//! GPU: the second part as an adapter's steps of the sum, with tensor maps of the weight's columns.

use super::ConcatLinear;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        linear::{
            cuda::target,
            problem::{OnChip, Operands, Pass, Problem},
            rows, tiles,
        },
        variant::{Slot, Variant, choose},
    },
    op::{Backward, Forward},
    tensor::Spec,
};

/// Rows of `--variant linear.concat=...`.
const VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: "sm90", applies: |on| tiles::on_hopper(&on.problem, on.target) },
    Variant { name: "copied", applies: |_| true },
];
const SLOT: &str = "linear.concat";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, VARIANTS)]
}

/// The products on both parts where they are: `y = a w[:, :A]^T + b w[:, A:]^T`, `da = dy w[:, :A]`, `db = dy w[:, A:]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Native {
    forward: Problem,
    inputs: [Problem; 2],
}

impl Native {
    fn new(ins: &[Spec], out: &Spec) -> Self {
        let (m, n, widths) = (rows(out), out.last(), [ins[0].last(), ins[1].last()]);
        let k = widths[0] + widths[1];
        let of = |pass, extents, rank| Problem::dense(pass, out.dtype, extents, rank).within(k);
        Self {
            forward: of(Pass::Forward, [m, n, widths[0]], widths[1]),
            inputs: widths.map(|width| of(Pass::Input, [m, width, n], 0)),
        }
    }

    /// Those of a layer, where they are chosen.
    pub fn of(cuda: &Cuda, ins: &[Spec], out: &Spec) -> Result<Option<Self>> {
        let native = Self::new(ins, out);
        let on = OnChip { problem: native.forward, target: cuda.target() };
        let name = choose(cuda, SLOT, VARIANTS, &on)?.name;
        Ok((name == VARIANTS[0].name).then_some(native))
    }

    pub fn describe(&self, cuda: &Cuda, backward: bool) -> String {
        if !backward {
            return self.forward.describe(cuda);
        }
        let [a, b] = self.inputs.map(|p| p.describe(cuda));
        format!("da {a}, db {b}")
    }

    pub fn forward(&self, op: ConcatLinear, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
        let weight = io.ins[2].address();
        let base = Operands::new(io.ins[0].address(), weight, io.out.address());
        let o = Operands {
            t: io.ins[1].address(),
            l: self.second(weight),
            bias: if op.bias { io.ins[3].address() } else { 0 },
            residual: io.ins.last().filter(|_| op.residual).map_or(0, |r| r.address()),
            ..base
        };
        self.forward.with_residual(op.residual).run(cuda, &o, io.scratch.address())
    }

    /// The wanted ones of `da` and `db`.
    pub fn input_gradients(&self, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
        let first = io.ins[2].address();
        let weights = [first, self.second(first)];
        for (i, (problem, weight)) in self.inputs.iter().zip(weights).enumerate() {
            if let Some((out, accumulate)) = target(io, i) {
                let o = Operands::new(io.d_out.address(), weight, out);
                problem.run(cuda, &Operands { accumulate, ..o }, io.scratch.address())?;
            }
        }
        Ok(())
    }

    /// Where the columns of `w` for `b` start.
    fn second(&self, weight: u64) -> u64 {
        weight + (self.forward.k * self.forward.dtype.size_bytes()) as u64
    }
}

pub(super) fn forward_scratch(ins: &[Spec], out: &Spec) -> usize {
    Native::new(ins, out).forward.scratch_bytes()
}

pub(super) fn backward_scratch(ins: &[Spec], out: &Spec) -> usize {
    let inputs = Native::new(ins, out).inputs;
    inputs.iter().map(Problem::scratch_bytes).max().unwrap_or(0)
}
