//! Launches of `experts_simt.cu` and `experts_sm80.cu`.

use super::int;
use crate::{
    device::{Cuda, Effort, Engine, Touched, touched_bytes},
    error::Result,
    kernels::{
        elementwise::{Operands, mode},
        variant::{self, Slot, Variant, by_dtype},
    },
    op::{Backward, Forward, GradMode},
    tensor::{DType, Spec},
};

const OP: &str = "moe_experts";
const BIAS: [&str; 3] = ["moe_bias_f32", "moe_bias_bf16", "moe_bias_f16"];

/// What a product is chosen by: `m` results down (rows, or features of the weight gradient), `n` across.
#[derive(Clone, Copy, Debug)]
pub(super) struct Problem {
    dtype: DType,
    m: usize,
    n: usize,
    k: usize,
    /// Products of this size: one, or one an expert.
    count: usize,
}

/// Tiles of 128 x 128 that keep a Hopper busy; below it, tiles of 64 x 64 are four times as many.
const BUSY_TILES: usize = 132;

/// Pieces of 16 bytes hold 8 elements.
fn mma(p: &Problem) -> bool {
    p.dtype != DType::F32 && p.n.is_multiple_of(8) && p.k.is_multiple_of(8)
}

const LARGE: Variant<Problem> = Variant { name: "sm80_128", applies: mma };
const SMALL: Variant<Problem> = Variant { name: "sm80_64", applies: mma };
const SIMT: Variant<Problem> = Variant { name: "simt", applies: |_| true };

/// Best first: large tiles reuse more, small ones fill the chip.
fn variants(p: &Problem) -> &'static [Variant<Problem>] {
    let large = p.count * p.m.div_ceil(128) * p.n.div_ceil(128) >= BUSY_TILES;
    if large { &[LARGE, SMALL, SIMT] } else { &[SMALL, LARGE, SIMT] }
}

/// What there is to choose from; which tile stands first depends on the extents.
pub(in super::super) fn slots() -> Vec<Slot> {
    let all = [Pass::Forward, Pass::Rows, Pass::Weight];
    all.map(|p| Slot::of(p.slot(), &[LARGE, SMALL, SIMT])).into()
}

/// Which of the three products.
#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Rows,
    Weight,
}

impl Pass {
    fn slot(self) -> &'static str {
        match self {
            Pass::Forward => "moe_experts.forward",
            Pass::Rows => "moe_experts.rows",
            Pass::Weight => "moe_experts.weight",
        }
    }

    /// The product of `rows: [R, K]` and `w: [E, N, K]`. The sum over rows needs no whole pieces, but the features do.
    fn problem(self, rows: &Spec, w: &Spec) -> Problem {
        let (r, k, e, n) = (rows.dims[0], rows.dims[1], w.dims[0], w.dims[1]);
        let dtype = rows.dtype;
        match self {
            Pass::Forward => Problem { dtype, m: r, n, k, count: 1 },
            Pass::Rows => Problem { dtype, m: r, n: k, k: n, count: 1 },
            Pass::Weight => Problem { dtype, m: n, n: k, k: n, count: e },
        }
    }

    fn symbol(self, variant: &str, dtype: DType) -> &'static str {
        let of = |symbols| by_dtype(dtype, symbols);
        let bf16 = dtype == DType::Bf16;
        let pick = |a, b| if bf16 { a } else { b };
        match (self, variant) {
            (Pass::Forward, "sm80_128") => {
                pick("moe_forward_sm80_128_bf16", "moe_forward_sm80_128_f16")
            }
            (Pass::Forward, "sm80_64") => {
                pick("moe_forward_sm80_64_bf16", "moe_forward_sm80_64_f16")
            }
            (Pass::Forward, _) => {
                of(["moe_forward_simt_f32", "moe_forward_simt_bf16", "moe_forward_simt_f16"])
            }
            (Pass::Rows, "sm80_128") => pick("moe_rows_sm80_128_bf16", "moe_rows_sm80_128_f16"),
            (Pass::Rows, "sm80_64") => pick("moe_rows_sm80_64_bf16", "moe_rows_sm80_64_f16"),
            (Pass::Rows, _) => of(["moe_rows_simt_f32", "moe_rows_simt_bf16", "moe_rows_simt_f16"]),
            (Pass::Weight, "sm80_128") => {
                pick("moe_weight_sm80_128_bf16", "moe_weight_sm80_128_f16")
            }
            (Pass::Weight, "sm80_64") => pick("moe_weight_sm80_64_bf16", "moe_weight_sm80_64_f16"),
            (Pass::Weight, _) => {
                of(["moe_weight_simt_f32", "moe_weight_simt_bf16", "moe_weight_simt_f16"])
            }
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Args {
    left: u64,
    right: u64,
    bias: u64,
    out: u64,
    offset: u64,
    experts: i32,
    n: i32,
    k: i32,
    accumulate: i32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BiasArgs {
    dy: u64,
    target: u64,
    offset: u64,
    n: u32,
    mode: i32,
}

/// The variants of a call's products, for the printed plan.
pub(in super::super) fn variant(cuda: &Cuda, ins: &[Spec], backward: bool) -> String {
    let passes: &[Pass] = if backward { &[Pass::Rows, Pass::Weight] } else { &[Pass::Forward] };
    let name = |p: &Pass| {
        let problem = p.problem(&ins[0], &ins[2]);
        variant::choose(cuda, p.slot(), variants(&problem), &problem).map(|v| v.name)
    };
    passes.iter().filter_map(|p| name(p).ok()).collect::<Vec<_>>().join(", ")
}

/// Address of the offsets behind `rows` entries of three lists.
fn offsets(table: u64, rows: usize) -> u64 {
    table + 3 * 4 * rows as u64
}

fn product(
    cuda: &Cuda,
    pass: Pass,
    (rows, w): (&Spec, &Spec),
    args: Args,
    touches: &[Touched],
) -> Result<()> {
    let (r, k, e, n) = (rows.dims[0], rows.dims[1], w.dims[0], w.dims[1]);
    let args = Args { experts: int(OP, e)?, n: int(OP, n)?, k: int(OP, k)?, ..args };
    int(OP, r)?;
    let aligned = (args.left | args.right | args.out).is_multiple_of(16);
    let problem = pass.problem(rows, w);
    let chosen = variant::choose(cuda, pass.slot(), variants(&problem), &problem)?.name;
    let name = if aligned { chosen } else { "simt" }; // whole pieces only
    let kernel = cuda.kernel::<Args>(OP, pass.symbol(name, rows.dtype))?;
    let tile = kernel.tile();
    let tiles = |n: usize, of: u32| n.div_ceil(of as usize) as u64;
    let across = tiles(problem.n, tile.block_cols);
    let grid = match pass {
        Pass::Weight => [tiles(problem.m, tile.block_rows), across, e as u64],
        // Every expert starts a new tile.
        _ => [(r / tile.block_rows as usize + e) as u64, across, 1],
    };
    if r == 0 && pass != Pass::Weight || grid.contains(&0) {
        return Ok(());
    }
    let blocks: u64 = grid.iter().product();
    let deep = (r * k * n) as f64; // rows of all experts together
    let size = rows.dtype.size_bytes() as f64;
    let (down, across) = (f64::from(tile.block_rows), f64::from(tile.block_cols));
    let kernel = kernel.taking(Effort {
        engine: if name == "simt" { Engine::Ordinary } else { Engine::Mma },
        flop: 2.0 * deep,
        tiles: blocks,
        reads: deep * (1.0 / down + 1.0 / across) * size,
        bytes: touched_bytes(touches),
        parts: 0.0,
        lead: None,
    });
    cuda.launch(&kernel, grid, &args, touches)
}

pub(in super::super) fn forward(cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let (specs, mut ops) = (io.specs, Operands::default());
    let table = ops.read("table", io.ins[1], &specs[1]);
    let args = Args {
        left: ops.read("rows", io.ins[0], &specs[0]),
        right: ops.read("w", io.ins[2], &specs[2]),
        bias: ops.read("b", io.ins[3], &specs[3]),
        out: ops.at("y", io.out.address(), io.out_spec),
        offset: offsets(table, specs[0].dims[0]),
        ..bytemuck::Zeroable::zeroed()
    };
    product(cuda, Pass::Forward, (&specs[0], &specs[2]), args, &ops.touches)
}

pub(in super::super) fn backward(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let specs = io.specs;
    for (pass, which, other) in [(Pass::Rows, 0, 2), (Pass::Weight, 2, 0)] {
        let (grad, mut ops) = (&io.d_ins[which], Operands::default());
        if !grad.wanted() {
            continue;
        }
        let table = ops.read("table", io.ins[1], &specs[1]);
        let args = Args {
            left: ops.read("dy", io.d_out, io.out_spec),
            right: ops.read("operand", io.ins[other], &specs[other]),
            out: ops.at("gradient", grad.buf.address(), &specs[which]),
            offset: offsets(table, specs[0].dims[0]),
            accumulate: i32::from(grad.mode == GradMode::Accumulate),
            ..bytemuck::Zeroable::zeroed()
        };
        product(cuda, pass, (&specs[0], &specs[2]), args, &ops.touches)?;
    }
    bias(cuda, io)
}

fn bias(cuda: &Cuda, io: &Backward<'_>) -> Result<()> {
    let (specs, grad, mut ops) = (io.specs, &io.d_ins[3], Operands::default());
    if !grad.wanted() || specs[3].is_empty() {
        return Ok(());
    }
    let table = ops.read("table", io.ins[1], &specs[1]);
    let n = int(OP, specs[3].last())?.cast_unsigned();
    let args = BiasArgs {
        dy: ops.read("dy", io.d_out, io.out_spec),
        target: ops.at("db", grad.buf.address(), &specs[3]),
        offset: offsets(table, specs[0].dims[0]),
        n,
        mode: mode(grad),
    };
    let kernel = cuda.kernel::<BiasArgs>(OP, by_dtype(specs[3].dtype, BIAS))?;
    let grid = [u64::from(n.div_ceil(kernel.tile().block_cols)), specs[3].dims[0] as u64, 1];
    cuda.launch(&kernel, grid, &args, &ops.touches)
}
