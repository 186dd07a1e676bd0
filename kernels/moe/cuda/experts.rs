//! Launches of `experts_simt.cu` and `experts_sm80.cu`; those of `experts_sm90.cu` are in `tensor.rs`.

use super::{
    int,
    products::{self, Args, Pass, variants},
    tensor::{self, TensorArgs},
};
use crate::{
    device::{Cuda, Engine, Touched, touched_bytes},
    error::Result,
    kernels::{
        elementwise::{Operands, mode},
        variant::{self, by_dtype},
    },
    op::{Backward, Forward, GradMode},
    tensor::Spec,
};

const OP: &str = "moe_experts";
const BIAS: [&str; 3] = ["moe_bias_f32", "moe_bias_bf16", "moe_bias_f16"];

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
        let problem = p.problem(&ins[0], &ins[2], cuda.target());
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
    let aligned = (args.left | args.right | args.bias | args.out).is_multiple_of(16);
    let problem = pass.problem(rows, w, cuda.target());
    let chosen = variant::choose(cuda, pass.slot(), variants(&problem), &problem)?.name;
    let tiling = products::tiling(if aligned { chosen } else { "simt" }); // whole pieces only
    let symbol = tiling.symbol(pass, rows.dtype);
    let old = touches.last().filter(|_| args.accumulate != 0).map_or(0, |out| out.bytes);
    let effort = tiling.effort(&problem, touched_bytes(touches) + old as f64);
    if tiling.engine == Engine::Wgmma {
        let kernel = cuda.kernel::<TensorArgs>(OP, symbol)?.taking(effort);
        return tensor::run(cuda, &problem, &kernel, args, touches);
    }
    let kernel = cuda.kernel::<Args>(OP, symbol)?;
    let tile = kernel.tile();
    let tiles = |n: usize, of: u32| n.div_ceil(of as usize) as u64;
    let across = tiles(problem.across(), tile.block_cols);
    let grid = match pass {
        Pass::Weight => [tiles(n, tile.block_rows), across, e as u64],
        // Every expert starts a new tile.
        _ => [(r / tile.block_rows as usize + e) as u64, across, 1],
    };
    if r == 0 && pass != Pass::Weight || grid.contains(&0) {
        return Ok(());
    }
    cuda.launch(&kernel.taking(effort), grid, &args, touches)
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
