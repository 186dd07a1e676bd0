//! Launches of `forward.cu` and `backward.cu`.

use super::LayerNorm;
use crate::{
    device::{Cuda, Touched},
    error::Result,
    kernels::{
        columns::{self, Columns, Partial, Symbols, Walk, by_type, by_width, int},
        variant::{self, Slot, Variant},
    },
    op::{Backward, Forward, GradMode},
    tensor::{DType, Spec},
};

const OP: &str = "layer_norm";
const FORWARD_WARP: Symbols = by_width!("layer_norm_forward_warp");
const FORWARD_BLOCK: [&str; 3] = by_type!("layer_norm_forward_block");
const INPUT_WARP: Symbols = by_width!("layer_norm_input_warp");
const INPUT_BLOCK: [&str; 3] = by_type!("layer_norm_input_block");
const SUMS: Symbols = by_width!("layer_norm_sums");
const SHIFT_SUMS: [&str; 3] = by_type!("layer_norm_shift_sums");
const TOTAL: [&str; 3] = by_type!("layer_norm_total");
/// Rows of one block of the warp variants: one a warp.
const BLOCK_ROWS: usize = 8;

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// Columns.
    pub c: usize,
    /// Storage type.
    pub dtype: DType,
}

/// Variants of both passes, best first.
pub const VARIANTS: &[Variant<Problem>] = &[
    // A row in the registers of a warp, 16 bytes an access; `kRowVec` columns at most.
    Variant {
        name: "warp_vec",
        applies: |p| p.c <= 1280 && p.c.is_multiple_of(columns::wide(p.dtype)),
    },
    // The same with single elements; `kRowScalar` columns at most.
    Variant { name: "warp_scalar", applies: |p| p.c <= 256 },
    // A row a block.
    Variant { name: "block", applies: |_| true },
];

const SLOT_FORWARD: &str = "layer_norm.forward";
const SLOT_BACKWARD: &str = "layer_norm.backward";

/// What there is to choose from.
pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT_FORWARD, VARIANTS), Slot::of(SLOT_BACKWARD, VARIANTS)]
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    x: u64,
    dy: u64,
    gamma: u64,
    beta: u64,
    mean: u64,
    rstd: u64,
    partial: u64,
    out: u64,
    walk: Walk,
    accumulate: i32,
    eps: f32,
}

/// Device scratch of backward: the partial rows.
pub(super) fn backward_scratch(x: &Spec) -> usize {
    let (rows, c) = x.rows_cols();
    columns::scratch(1, rows, c, x.dtype)
}

/// The name of the variant for `x`.
pub(super) fn choose(cuda: &Cuda, x: &Spec, backward: bool) -> Result<&'static str> {
    let slot = if backward { SLOT_BACKWARD } else { SLOT_FORWARD };
    let problem = Problem { c: x.last(), dtype: x.dtype };
    Ok(variant::choose(cuda, slot, VARIANTS, &problem)?.name)
}

/// Symbol and grid of a pass over rows.
fn by_rows(
    name: &str,
    (warp, block): (Symbols, [&'static str; 3]),
    x: &Spec,
) -> (&'static str, [u64; 3]) {
    let rows = x.rows_cols().0;
    match name {
        "block" => (variant::by_dtype(x.dtype, block), [rows as u64, 1, 1]),
        warped => {
            let symbol = warp.of(warped == "warp_vec", x.dtype);
            (symbol, [rows.div_ceil(BLOCK_ROWS) as u64, 1, 1])
        }
    }
}

/// Arguments with the extents and nothing else.
fn extents(op: LayerNorm, x: &Spec) -> Result<Args> {
    let (rows, c) = x.rows_cols();
    let mut args: Args = bytemuck::Zeroable::zeroed();
    args.walk.c = int(OP, c)?;
    args.walk.rows = int(OP, rows)?;
    args.eps = op.eps;
    Ok(args)
}

pub(super) fn forward(op: LayerNorm, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let x = &io.specs[0];
    if x.is_empty() {
        return Ok(());
    }
    let (symbol, grid) = by_rows(choose(cuda, x, false)?, (FORWARD_WARP, FORWARD_BLOCK), x);
    let stats = Spec::f32(&[x.rows_cols().0]);
    let args = Args {
        x: io.ins[0].address(),
        gamma: io.ins[1].address(),
        beta: io.ins[2].address(),
        mean: io.saved[0].address(),
        rstd: io.saved[1].address(),
        out: io.out.address(),
        ..extents(op, x)?
    };
    let touches = [
        Touched::new("x", args.x, x),
        Touched::new("gamma", args.gamma, &io.specs[1]),
        Touched::new("beta", args.beta, &io.specs[2]),
        Touched::new("mean", args.mean, &stats),
        Touched::new("rstd", args.rstd, &stats),
        Touched::new("y", args.out, io.out_spec),
    ];
    cuda.launch(&cuda.kernel::<Args>(OP, symbol)?, grid, &args, &touches)
}

pub(super) fn backward(op: LayerNorm, cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let [dx, dgamma, dbeta] = &io.d_ins[..] else { unreachable!("layer_norm: three inputs") };
    let x = &io.specs[0];
    let stats = Spec::f32(&[x.rows_cols().0]);
    let mut args = Args { dy: io.d_out.address(), ..extents(op, x)? };
    let mut touches = vec![Touched::new("dy", args.dy, io.out_spec)];
    if dx.wanted() || dgamma.wanted() {
        args.x = io.ins[0].address();
        args.mean = io.saved[0].address();
        args.rstd = io.saved[1].address();
        touches.push(Touched::new("x", args.x, x));
        touches.push(Touched::new("mean", args.mean, &stats));
        touches.push(Touched::new("rstd", args.rstd, &stats));
    }
    if dx.wanted() && !x.is_empty() {
        args.gamma = io.ins[1].address();
        args.out = dx.buf.address();
        args.accumulate = i32::from(dx.mode == GradMode::Accumulate);
        let mut touches = touches.clone();
        touches.push(Touched::new("gamma", args.gamma, &io.specs[1]));
        touches.push(Touched::new("dx", args.out, x));
        let (symbol, grid) = by_rows(choose(cuda, x, true)?, (INPUT_WARP, INPUT_BLOCK), x);
        cuda.launch(&cuda.kernel::<Args>(OP, symbol)?, grid, &args, &touches)?;
    }
    if !dgamma.wanted() && !dbeta.wanted() {
        return Ok(());
    }
    let partial = column_sums(cuda, io, dgamma.wanted(), (args, touches))?;
    let symbol = variant::by_dtype(x.dtype, TOTAL);
    columns::total(cuda, (OP, symbol), partial, x.dtype, [dgamma, dbeta])
}

/// `sum dy h` where `scaled`, and `sum dy`, of every block of rows.
fn column_sums(
    cuda: &Cuda,
    io: &Backward<'_>,
    scaled: bool,
    (mut args, mut touches): (Args, Vec<Touched>),
) -> Result<Partial> {
    let x = &io.specs[0];
    let (rows, c) = x.rows_cols();
    let vec = scaled && c.is_multiple_of(columns::wide(x.dtype));
    let cut = Columns::of(1, rows, c, if vec { columns::wide(x.dtype) } else { 1 });
    let address = io.scratch.address();
    let partial = Partial { address, parts: cut.blocks(), c };
    if rows == 0 {
        return Ok(partial);
    }
    args.walk = cut.walk(OP)?;
    args.partial = address;
    touches.push(Touched { what: "scratch", address, bytes: cut.partial_bytes() });
    let symbol =
        if scaled { SUMS.of(vec, x.dtype) } else { variant::by_dtype(x.dtype, SHIFT_SUMS) };
    cuda.launch(&cuda.kernel::<Args>(OP, symbol)?, cut.grid(), &args, &touches)?;
    Ok(partial)
}
