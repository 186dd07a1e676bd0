//! Launches of the kernels that add a bias to the scores.

use super::{
    Problem,
    args::{self, BackwardArgs, ForwardArgs, target},
    backward_scratch as plain_scratch,
    effort::Walk,
    int, prepare,
    simt::{Symbols, grid, symbol},
};
use crate::{
    device::{Cuda, Engine, Touched},
    error::Result,
    kernels::{
        attention::{Bias, BiasedAttention},
        variant::{Slot, Variant, by_dtype, choose},
    },
    op::{Backward, Forward, Grad},
    tensor::{DType, Spec},
};

const OP: &str = "biased_attention";

/// Symbols of a kernel for both output slices.
macro_rules! symbols {
    ($name:literal) => {
        [
            [
                concat!($name, "_simt64_f32"),
                concat!($name, "_simt64_bf16"),
                concat!($name, "_simt64_f16"),
            ],
            [
                concat!($name, "_simt128_f32"),
                concat!($name, "_simt128_bf16"),
                concat!($name, "_simt128_f16"),
            ],
        ]
    };
}

const FORWARD_SIMT: Symbols = symbols!("attention_biased_forward");
const BACKWARD_Q: Symbols = symbols!("attention_biased_q");
const BACKWARD_KV: Symbols = symbols!("attention_biased_kv");
const TOTAL: [&str; 3] =
    ["attention_bias_total_f32", "attention_bias_total_bf16", "attention_bias_total_f16"];

/// The tensor cores' kernels by largest head dimension, a smaller one is padded with zeros: bf16, f16.
const SM80: [(usize, [&str; 2]); 3] = [
    (48, ["attention_biased_forward_sm80_d48_bf16", "attention_biased_forward_sm80_d48_f16"]),
    (64, ["attention_biased_forward_sm80_d64_bf16", "attention_biased_forward_sm80_d64_f16"]),
    (80, ["attention_biased_forward_sm80_d80_bf16", "attention_biased_forward_sm80_d80_f16"]),
];
/// Values of a query's bias, and of a head's table, that those kernels hold: `BiasBins` of 128 queries.
const HELD: [usize; 2] = [128, 128 * 130];

/// What a variant is chosen by.
#[derive(Clone, Copy, Debug)]
struct Biased {
    plain: Problem,
    bias: Bias,
    grid: [usize; 2],
}

impl Biased {
    fn of(op: &BiasedAttention, plain: Problem) -> Self {
        Self { plain, bias: op.bias, grid: op.grid }
    }
}

/// Copies of 16 bytes, no negative scale, and a bias that fits into shared memory.
fn sm80_applies(p: &Biased) -> bool {
    let [rows, cols] = p.grid;
    let held = match p.bias {
        Bias::Decomposed => rows + cols <= HELD[0],
        Bias::Offsets => rows * cols <= HELD[1],
    };
    let d = p.plain.head_dim;
    let known = d.is_multiple_of(8) && SM80.iter().any(|(most, _)| d <= *most);
    p.plain.dtype.size_bytes() == 2 && known && held && p.plain.scale > 0.0
}

/// Forward variants, best first.
const FORWARD: &[Variant<Biased>] =
    &[Variant { name: "sm80", applies: sm80_applies }, Variant { name: "simt", applies: |_| true }];
/// Backward variants, best first.
const BACKWARD: &[Variant<Biased>] = &[Variant { name: "simt", applies: |_| true }];

const SLOT_FORWARD: &str = "biased_attention.forward";
const SLOT_BACKWARD: &str = "biased_attention.backward";

pub(super) fn slots() -> Vec<Slot> {
    vec![Slot::of(SLOT_FORWARD, FORWARD), Slot::of(SLOT_BACKWARD, BACKWARD)]
}

/// Twin of `GridBias`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GridBias {
    first: u64,
    second: u64,
    bins: u64,
    rows: i32,
    cols: i32,
}

/// Twin of `BiasedForwardArgs`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BiasedForward {
    plain: ForwardArgs,
    bias: GridBias,
}

/// Twin of `BiasedBackwardArgs`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BiasedBackward {
    plain: BackwardArgs,
    bias: GridBias,
}

/// Twin of `BinArgs`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BinArgs {
    bins: u64,
    first: u64,
    second: u64,
    queries: i64,
    heads: i32,
    bin_count: i32,
    split: i32,
    decomposed: i32,
    add_first: i32,
    add_second: i32,
}

/// Names of the operands that are the bias.
fn names(op: &BiasedAttention) -> &'static [&'static str] {
    match op.bias {
        Bias::Decomposed => &["rel_h", "rel_w"],
        Bias::Offsets => &["table"],
    }
}

/// Bytes of the sums of `ds` of every query.
fn bin_bytes(op: &BiasedAttention, q: &[usize]) -> usize {
    q[..3].iter().product::<usize>() * op.bins().iter().sum::<usize>() * size_of::<f32>()
}

/// Bytes of the statistics and partial sums, then of the sums for the bias.
pub(in super::super) fn backward_scratch(op: &BiasedAttention, q: &[usize]) -> usize {
    plain_scratch(q, q[1]) + bin_bytes(op, q)
}

/// The name of the variant that runs, for a reader of the plan.
pub(in super::super) fn name(
    op: &BiasedAttention,
    cuda: &Cuda,
    ins: &[Spec],
    backward: bool,
) -> String {
    let problem = Biased::of(op, Problem::new(&op.plain(), cuda, ins, [true; 3]));
    let chosen = match backward {
        true => choose(cuda, SLOT_BACKWARD, BACKWARD, &problem),
        false => choose(cuda, SLOT_FORWARD, FORWARD, &problem),
    };
    chosen.map_or(String::new(), |v| v.name.into())
}

/// The bias's operands at `addresses`.
fn grid_bias(op: &BiasedAttention, addresses: &[u64]) -> Result<GridBias> {
    let second = addresses.get(1).copied().unwrap_or(0);
    let [rows, cols] = op.grid;
    int(op.bins().iter().sum())?;
    Ok(GridBias { first: addresses[0], second, bins: 0, rows: int(rows)?, cols: int(cols)? })
}

pub(in super::super) fn forward(op: &BiasedAttention, cuda: &Cuda, io: &Forward<'_>) -> Result<()> {
    let plain = op.plain();
    let p = Problem::new(&plain, cuda, io.specs, [false; 3]);
    if io.out_spec.is_empty() {
        return Ok(());
    }
    let variant = choose(cuda, SLOT_FORWARD, FORWARD, &Biased::of(op, p))?.name;
    let (args, mut touches) = args::forward(&plain, &p, io)?;
    let addresses: Vec<u64> = io.ins[3..].iter().map(|b| b.address()).collect();
    for (i, what) in names(op).iter().enumerate() {
        touches.push(Touched::new(what, addresses[i], &io.specs[3 + i]));
    }
    let args = BiasedForward { plain: args, bias: grid_bias(op, &addresses)? };
    let tensor = SM80.iter().find(|(most, _)| variant == "sm80" && p.head_dim <= *most);
    if let Some((_, symbols)) = tensor {
        let kernel =
            cuda.kernel::<BiasedForward>(OP, symbols[usize::from(p.dtype == DType::F16)])?;
        let tile = kernel.tile();
        let cut = [tile.block_cols as usize, p.head_dim.next_multiple_of(16)];
        let walk = Walk::forward(Engine::Mma, &p, tile.block_rows as usize, cut);
        let kernel = kernel.taking(walk.effort(&p, &touches));
        let blocks = p.len_q.div_ceil(tile.block_rows as usize) as u64;
        let grid = [blocks, p.heads as u64, p.samples as u64];
        return cuda.launch(&kernel, grid, &args, &touches);
    }
    let kernel = cuda.kernel::<BiasedForward>(OP, symbol(&p, FORWARD_SIMT))?;
    let tile = kernel.tile();
    let cut = [tile.block_cols as usize, p.head_dim];
    let walk = Walk::forward(Engine::Ordinary, &p, tile.block_rows as usize, cut);
    let kernel = kernel.taking(walk.effort(&p, &touches));
    cuda.launch(&kernel, grid(&p, p.len_q, tile.block_rows), &args, &touches)
}

pub(in super::super) fn backward(
    op: &BiasedAttention,
    cuda: &Cuda,
    io: &Backward<'_>,
) -> Result<()> {
    let plain = op.plain();
    let [dq, dk, dv, ..] = &io.d_ins[..] else { unreachable!("biased attention: three or more") };
    let mut p = Problem::new(&plain, cuda, io.specs, [dq.wanted(), dk.wanted(), dv.wanted()]);
    let wants_bias = io.d_ins[3..].iter().any(Grad::wanted);
    if p.samples * p.heads > 0 && (wants_bias || p.wants.contains(&true)) {
        choose(cuda, SLOT_BACKWARD, BACKWARD, &Biased::of(op, p))?;
        // the statistics and the values are there for the bias too
        let wanted = p.wants;
        p.wants[0] |= wants_bias;
        if p.wants[0] || p.wants[1] {
            prepare::statistics(cuda, &p, io)?;
        }
        let addresses: Vec<u64> = io.ins[3..].iter().map(|b| b.address()).collect();
        let mut bias = grid_bias(op, &addresses)?;
        if wants_bias {
            bias.bins = io.scratch.address() + plain_scratch(&io.specs[0].dims, p.len_k) as u64;
        }
        let (args, mut touches) = args::biased_backward(&plain, (&p, wanted), io)?;
        for (i, what) in names(op).iter().enumerate() {
            touches.push(Touched::new(what, addresses[i], &io.specs[3 + i]));
        }
        if wants_bias {
            let bytes = bin_bytes(op, &io.specs[0].dims);
            touches.push(Touched { what: "bins", address: bias.bins, bytes });
        }
        let args = BiasedBackward { plain: args, bias };
        if p.wants[0] {
            let kernel = cuda.kernel::<BiasedBackward>(OP, symbol(&p, BACKWARD_Q))?;
            let rows = kernel.tile().block_rows;
            let walk = Walk::queries(Engine::Ordinary, &p, rows as usize, p.head_dim);
            let kernel = kernel.taking(walk.effort(&p, &touches));
            cuda.launch(&kernel, grid(&p, p.len_q, rows), &args, &touches)?;
        }
        if p.wants[1] || p.wants[2] {
            let kernel = cuda.kernel::<BiasedBackward>(OP, symbol(&p, BACKWARD_KV))?;
            let rows = kernel.tile().block_rows;
            let walk = Walk::keys(Engine::Ordinary, &p, rows as usize, [1, p.head_dim]);
            let kernel = kernel.taking(walk.effort(&p, &touches));
            cuda.launch(&kernel, grid(&p, p.len_k, rows), &args, &touches)?;
        }
    }
    if wants_bias { totals(op, cuda, &p, io) } else { Ok(()) }
}

/// The gradients of the bias from the sums of every query.
fn totals(op: &BiasedAttention, cuda: &Cuda, p: &Problem, io: &Backward<'_>) -> Result<()> {
    let address = io.scratch.address() + plain_scratch(&io.specs[0].dims, p.len_k) as u64;
    let bytes = bin_bytes(op, &io.specs[0].dims);
    let mut touches = vec![Touched { what: "bins", address, bytes }];
    let mut to = [(0, 0); 2];
    for (i, what) in names(op).iter().enumerate().filter(|(i, _)| io.d_ins[3 + i].wanted()) {
        to[i] = target(&io.d_ins[3 + i]);
        touches.push(Touched::new(what, to[i].0, &io.specs[3 + i]));
    }
    let (bins, decomposed) = (op.bins(), op.bias == Bias::Decomposed);
    let queries = p.samples * p.len_q * p.heads;
    let args = BinArgs {
        bins: address,
        first: to[0].0,
        second: to[1].0,
        queries: i64::from(int(queries)?),
        heads: int(p.heads)?,
        bin_count: int(bins.iter().sum())?,
        split: int(bins[0])?,
        decomposed: i32::from(decomposed),
        add_first: to[0].1,
        add_second: to[1].1,
    };
    let elements = if decomposed { queries } else { p.heads } * bins.iter().sum::<usize>();
    if elements == 0 {
        return Ok(());
    }
    let kernel = cuda.kernel::<BinArgs>(OP, by_dtype(p.dtype, TOTAL))?;
    let blocks = elements.div_ceil(kernel.tile().block_cols as usize);
    cuda.launch(&kernel, [blocks as u64, 1, 1], &args, &touches)
}
