//! GPU: one Hopper kernel, or the layer and a pass over its result.

use super::{FusedLinear, Then};
use crate::{
    device::{Cuda, Touched, cubin_table::Target},
    error::{Error, Result},
    kernels::{
        activation::Kind,
        linear::{
            problem::{OnChip, Operands, Pass, Problem},
            rows, tensor,
            tilings::{ACTIVATED, GATED, Tiling},
        },
        variant::{Slot, Variant, by_dtype, choose},
    },
    op::Forward,
    tensor::Spec,
};

/// The argument struct of `linear_finish.cu`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct FinishArgs {
    h: u64,
    residual: u64,
    y: u64,
    len: u64,
    columns: i32,
    gated: i32,
    activation: i32,
    unused: i32,
}

/// Rows of `--variant linear_fused.geglu=...` and `linear_fused.activation=...`.
const GATED_VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: GATED.name, applies: |p| hopper(p) && p.problem.n.is_multiple_of(16) },
    Variant { name: "two_steps", applies: |_| true },
];
const ACTIVATED_VARIANTS: &[Variant<OnChip>] = &[
    Variant { name: ACTIVATED.name, applies: hopper },
    Variant { name: "two_steps", applies: |_| true },
];

const SLOT_GEGLU: &str = "linear_fused.geglu";
const SLOT_ACTIVATION: &str = "linear_fused.activation";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT_GEGLU, GATED_VARIANTS), Slot::of(SLOT_ACTIVATION, ACTIVATED_VARIANTS)]
}

fn hopper(p: &OnChip) -> bool {
    matches!(p.target, Target::Sm90a | Target::Host) && ACTIVATED.serves(&p.problem)
}

fn kernel(then: Then) -> &'static Tiling {
    if then == Then::Geglu { &GATED } else { &ACTIVATED }
}

fn problem(x: &Spec, n: usize) -> Problem {
    Problem::dense(Pass::Forward, x.dtype, [rows(x), n, x.last()], 0)
}

/// Whether the fused kernel is chosen.
fn fused(op: FusedLinear, cuda: &Cuda, p: &Problem) -> Result<bool> {
    let (slot, variants) = if op.then == Then::Geglu {
        (SLOT_GEGLU, GATED_VARIANTS)
    } else {
        (SLOT_ACTIVATION, ACTIVATED_VARIANTS)
    };
    let on = OnChip { problem: *p, target: cuda.target() };
    Ok(choose(cuda, slot, variants, &on)?.name != "two_steps")
}

pub(super) fn describe(op: FusedLinear, cuda: &Cuda, x: &Spec, w: &Spec) -> String {
    let p = problem(x, w.dims[0]);
    match (op.then, fused(op, cuda, &p)) {
        (Then::Nothing, _) => p.with_residual(op.residual).describe(cuda),
        (then, Ok(true)) => kernel(then).name.into(),
        _ => format!("{} and a pass", p.describe(cuda)),
    }
}

/// Bytes of `h` where a second pass reads it, what follows it aligned.
fn h_bytes(p: &Problem) -> usize {
    p.m.saturating_mul(p.n).saturating_mul(p.dtype.size_bytes()).next_multiple_of(256)
}

pub(super) fn scratch(op: FusedLinear, x: &Spec, h: &Spec) -> usize {
    let p = problem(x, h.last());
    if op.then == Then::Nothing {
        return p.scratch_bytes();
    }
    let one = if ACTIVATED.serves(&p) { tensor::scratch_bytes(&p, kernel(op.then)) } else { 0 };
    p.scratch_bytes().saturating_add(h_bytes(&p)).max(one)
}

pub(super) fn forward(op: FusedLinear, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let p = problem(&io.specs[0], io.specs[1].dims[0]);
    let residual = match io.ins.last() {
        Some(r) if op.residual => r.address(),
        _ => 0,
    };
    let bias = if op.bias { io.ins[2].address() } else { 0 };
    let base = Operands::new(io.ins[0].address(), io.ins[1].address(), io.out.address());
    let o = Operands { bias, residual, ..base };
    let scratch = io.scratch.address();
    if io.out_spec.is_empty() {
        return Ok(());
    }
    if op.then == Then::Nothing {
        return p.with_residual(op.residual).run(cuda, &o, scratch);
    }
    if fused(op, cuda, &p)? {
        let after = tensor::Fused { gated: op.then == Then::Geglu, activation: code(op.then) };
        return tensor::run_fused(cuda, &p, kernel(op.then), &o, scratch, after);
    }
    let behind = scratch + h_bytes(&p) as u64;
    p.run(cuda, &Operands { out: scratch, residual: 0, ..o }, behind)?;
    finish(op, cuda, io, (scratch, p.m * p.n), residual)
}

/// The number of an activation in the kernels.
fn code(then: Then) -> i32 {
    match then {
        Then::Activation(Kind::Gelu) => 1,
        Then::Activation(Kind::QuickGelu) => 2,
        Then::Activation(Kind::Relu) => 3,
        // `infer` refuses tanh, ELU and the sigmoid.
        Then::Activation(Kind::Silu | Kind::Tanh | Kind::Elu | Kind::Sigmoid)
        | Then::Nothing
        | Then::Geglu => 0,
    }
}

fn finish(
    op: FusedLinear,
    cuda: &Cuda,
    io: &Forward<'_>,
    (h, h_len): (u64, usize),
    residual: u64,
) -> Result<()> {
    let out = io.out_spec;
    let symbol =
        by_dtype(out.dtype, ["linear_finish_f32", "linear_finish_bf16", "linear_finish_f16"]);
    let kernel = cuda.kernel::<FinishArgs>("linear", symbol)?;
    let columns = i32::try_from(out.last()).map_err(|_| Error::NoKernel {
        op: "linear",
        key: format!("{} columns", out.last()),
        tried: "32-bit extents".into(),
    })?;
    let args = FinishArgs {
        h,
        residual,
        y: io.out.address(),
        len: out.len() as u64,
        columns,
        gated: i32::from(op.then == Then::Geglu),
        activation: code(op.then),
        unused: 0,
    };
    let mut touches = vec![
        Touched { what: "h", address: h, bytes: h_len * out.dtype.size_bytes() },
        Touched::new("out", args.y, out),
    ];
    if residual != 0 {
        touches.push(Touched::new("residual", residual, out));
    }
    let blocks = (out.len() as u64).div_ceil(u64::from(kernel.tile().block_cols));
    cuda.launch(&kernel, [blocks, 1, 1], &args, &touches)
}
