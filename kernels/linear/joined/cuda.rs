//! GPU: one Hopper kernel for all parts, or one product after another.

use super::Joined;
use crate::{
    device::{Cuda, cubin_table::Target},
    error::Result,
    kernels::{
        linear::{
            problem::{OnChip, Operands, Pass, Problem},
            tensor::{self, Parts},
            tilings::{JOINED_128X160, JOINED_256X160, Tiling},
        },
        variant::{Slot, Variant, choose},
    },
    op::Forward,
    tensor::{DType, Spec},
};

/// Rows of `--variant linear_joined=...`.
const VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: JOINED_256X160.name, applies: hopper },
    Variant { name: JOINED_128X160.name, applies: hopper },
    Variant { name: "apart", applies: |_| true },
];
const TILINGS: [&Tiling; 2] = [&JOINED_256X160, &JOINED_128X160];
const SLOT: &str = "linear_joined";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT, VARIANTS)]
}

fn hopper(on: &OnChip) -> bool {
    matches!(on.target, Target::Sm90a | Target::Host) && JOINED_128X160.serves(&on.problem)
}

/// One part.
fn part([m, n, k]: [usize; 3], dtype: DType) -> Problem {
    Problem::dense(Pass::Forward, dtype, [m, n, k], 0)
}

/// The kernel for all parts: the forced one, else the one with the least predicted time; `None` for one after another.
fn tiling(cuda: &Cuda, parts: &Parts) -> Result<Option<&'static Tiling>> {
    let on = OnChip { problem: parts.one, target: cuda.target() };
    let first = choose(cuda, SLOT, VARIANTS, &on)?.name;
    if first == "apart" || cuda.forced_variant(SLOT).is_some() {
        return Ok(TILINGS.into_iter().find(|t| t.name == first));
    }
    Ok(TILINGS.into_iter().min_by(|a, b| parts.predicted_us(a).total_cmp(&parts.predicted_us(b))))
}

pub(super) fn describe(op: Joined, cuda: &Cuda, ins: &[Spec]) -> String {
    let parts = Parts { one: part(Joined::extents(ins), ins[0].dtype), count: op.parts };
    match tiling(cuda, &parts) {
        Ok(Some(t)) if parts.ranges(t) > 1 => format!("{} split {}", t.name, parts.ranges(t)),
        Ok(Some(t)) => t.name.into(),
        Ok(None) => format!("apart: {}", parts.one.describe(cuda)),
        Err(_) => "none".into(),
    }
}

pub(super) fn scratch(count: usize, extents: [usize; 3], dtype: DType) -> usize {
    let parts = Parts { one: part(extents, dtype), count };
    let able = TILINGS.iter().filter(|t| t.serves(&parts.one));
    let joined = able.map(|t| tensor::scratch_bytes(&parts.whole(t), t)).max().unwrap_or(0);
    parts.one.scratch_bytes().max(joined)
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
        Some(t) => tensor::run_joined(cuda, &parts, t, &each, scratch),
        None => each.iter().try_for_each(|o| parts.one.run(cuda, o, scratch)),
    }
}
