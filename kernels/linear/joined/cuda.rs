//! GPU: one Hopper kernel for all parts, or one product after another.

use super::Joined;
use crate::{
    device::Cuda,
    error::Result,
    kernels::{
        linear::{
            problem::{OnChip, Operands, Parts, Pass, Problem},
            tilings::Tiling,
        },
        variant::{Slot, Variant, choose},
    },
    op::Forward,
    tensor::{DType, Spec},
};

/// Rows of `--variant linear.joined=...`.
const VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: Parts::VARIANTS[0].0, applies: hopper },
    Variant { name: Parts::VARIANTS[1].0, applies: hopper },
    Variant { name: "apart", applies: |_| true },
];
const SLOT: &str = "linear.joined";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, VARIANTS)]
}

fn hopper(on: &OnChip) -> bool {
    Parts { one: on.problem, count: 2 }.served(on.target)
}

/// One part.
fn part([m, n, k]: [usize; 3], dtype: DType) -> Problem {
    Problem::dense(Pass::Forward, dtype, [m, n, k], 0)
}

/// The kernel for all parts: the forced one, else the one with the least predicted time; `None` for one after another.
fn tiling(cuda: &Cuda, parts: &Parts) -> Result<Option<&'static Tiling>> {
    let on = OnChip { problem: parts.one, target: cuda.target() };
    let first = choose(cuda, SLOT, VARIANTS, &on)?.name;
    let forced = cuda.forced_variant(SLOT).is_some_and(|name| name == first);
    let rows = Parts::VARIANTS.iter().find(|(name, _)| *name == first).map(|(_, rows)| *rows);
    Ok(rows.map(|rows| parts.layers_tiling(forced.then_some(rows))))
}

pub(super) fn describe(op: Joined, cuda: &Cuda, ins: &[Spec]) -> String {
    let parts = Parts { one: part(Joined::extents(ins), ins[0].dtype), count: op.parts };
    match tiling(cuda, &parts) {
        Ok(Some(t)) => parts.describe_layers(t),
        Ok(None) => format!("apart: {}", parts.one.describe(cuda)),
        Err(_) => "none".into(),
    }
}

pub(super) fn scratch(count: usize, extents: [usize; 3], dtype: DType) -> usize {
    let parts = Parts { one: part(extents, dtype), count };
    parts.one.scratch_bytes().max(parts.layers_scratch())
}

pub(super) fn forward(op: Joined, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let extents = Joined::extents(io.specs);
    let [m, n, _] = extents;
    let parts = Parts { one: part(extents, io.out_spec.dtype), count: op.parts };
    let bytes = m * n * io.out_spec.dtype.size_bytes();
    let each: Vec<Operands> = (io.ins[1..].chunks(op.each()).enumerate())
        .map(|(i, part)| {
            let out = io.out.address() + (i * bytes) as u64;
            let o = Operands::new(io.ins[0].address(), part[0].address(), out);
            Operands { bias: part.get(1).map_or(0, |b| b.address()), ..o }
        })
        .collect();
    let scratch = io.scratch.address();
    if io.out_spec.is_empty() {
        return Ok(());
    }
    match tiling(cuda, &parts)? {
        Some(t) => parts.layers(cuda, t, &each, None, scratch),
        None => each.iter().try_for_each(|o| parts.one.run(cuda, o, scratch)),
    }
}
