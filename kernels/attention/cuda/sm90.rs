//! Launches of `forward*_sm90.cu` and `backward*_sm90.cu`: 16-bit types on wgmma, operands by tensor
//! maps.

use super::{
    Problem,
    args::{Scratch, target, touched_lse},
    effort::{Walk, together},
    int, prepare, widths,
};
use crate::{
    device::{Cuda, Engine, TensorMap, TensorMapSpec, Touched, cubin_table::Target},
    error::{Error, Result},
    kernels::attention::Attention,
    op::{Backward, Forward},
    tensor::{DType, Spec},
};

/// Twin of `ForwardMaps`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ForwardMaps {
    q: TensorMap,
    k: TensorMap,
    v: TensorMap,
    out: TensorMap,
    lse: u64,
    len_q: i32,
    len_k: i32,
    heads: i32,
    samples: i32,
    scale: f32,
    causal: i32,
    unused: [i32; 8],
}

/// Twin of `BackwardMaps`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct BackwardMaps {
    q: TensorMap,
    k: TensorMap,
    v: TensorMap,
    d_out: TensorMap,
    dq: TensorMap,
    dk: TensorMap,
    dv: TensorMap,
    lse2: u64,
    delta: u64,
    partial: u64,
    to_q: u64,
    to_k: u64,
    to_v: u64,
    len_q: i32,
    len_k: i32,
    stat_len: i32,
    heads: i32,
    samples: i32,
    splits: i32,
    scale: f32,
    add_q: i32,
    add_k: i32,
    add_v: i32,
    head_dim: i32,
    causal: i32,
    unused: [i32; 8],
}

/// Channels of a tensor map's box: one line of the 128-byte swizzle.
const BOX_CHANNELS: u32 = 64;
/// Rows of the box of a warpgroup's tile, and of a backward operand.
pub(super) const GROUP_ROWS: u32 = 64;
pub(super) const BACKWARD_ROWS: u32 = 128;

/// The kernels of a variant, for bf16 and f16.
struct Row {
    name: &'static str,
    symbols: [&'static str; 2],
}

const FORWARD: [Row; 6] = [
    Row {
        name: "sm90_n80",
        symbols: ["attention_forward_sm90_n80_bf16", "attention_forward_sm90_n80_f16"],
    },
    Row {
        name: "sm90_m192",
        symbols: ["attention_forward_sm90_m192_bf16", "attention_forward_sm90_m192_f16"],
    },
    Row {
        name: "sm90_m128",
        symbols: ["attention_forward_sm90_m128_bf16", "attention_forward_sm90_m128_f16"],
    },
    Row {
        name: "sm90_n192_poly",
        symbols: ["attention_forward_sm90_n192_poly_bf16", "attention_forward_sm90_n192_poly_f16"],
    },
    Row {
        name: "sm90_m192_n192",
        symbols: ["attention_forward_sm90_m192_n192_bf16", "attention_forward_sm90_m192_n192_f16"],
    },
    Row {
        name: "sm90_d128",
        symbols: ["attention_forward_sm90_d128_bf16", "attention_forward_sm90_d128_f16"],
    },
];

const BACKWARD: [Row; 2] = [
    Row { name: "sm90", symbols: ["attention_backward_sm90_bf16", "attention_backward_sm90_f16"] },
    Row {
        name: "sm90_turns",
        symbols: ["attention_backward_sm90_turns_bf16", "attention_backward_sm90_turns_f16"],
    },
];

/// The symbol of a variant for the element type.
fn symbol(rows: &'static [Row], p: &Problem, name: &str) -> Result<&'static str> {
    let row = rows.iter().find(|r| r.name == name).ok_or_else(|| Error::NoKernel {
        op: "attention",
        key: name.into(),
        tried: rows.iter().map(|r| r.name).collect::<Vec<_>>().join(", "),
    })?;
    Ok(row.symbols[usize::from(p.dtype == DType::F16)])
}

/// Whether wgmma, the type and the shape fit.
fn fits(p: &Problem, head_dim: usize) -> bool {
    matches!(p.target, Target::Sm90a | Target::Host)
        && p.dtype.size_bytes() == 2
        && p.head_dim == head_dim
        && !p.causal
        && p.scale > 0.0
        && p.len_q > 0
}

/// Time of the whole grid in rows of one multiprocessor: full waves of blocks of `rows` queries.
fn waves(p: &Problem, rows: usize) -> usize {
    (p.samples * p.heads * p.len_q.div_ceil(rows)).div_ceil(p.multiprocessors.max(1)) * rows
}

/// The text keys of cross attention fill one block of 80.
pub(super) fn n80_applies(p: &Problem) -> bool {
    fits(p, 64) && p.len_k <= 80
}

/// Three consumer warpgroups where their larger blocks do not cost a wave: they read K and V less
/// often.
pub(super) fn m192_applies(p: &Problem) -> bool {
    fits(p, 64) && waves(p, 192) <= waves(p, 128)
}

/// Two consumer warpgroups.
pub(super) fn m128_applies(p: &Problem) -> bool {
    fits(p, 64)
}

/// P in shared memory; text keys keep their own block of 80.
pub(super) fn m192_n192_applies(p: &Problem) -> bool {
    m128_applies(p) && !n80_applies(p)
}

/// Head dimension 128.
pub(super) fn d128_applies(p: &Problem) -> bool {
    fits(p, 128)
}

/// The gradient of `v` alone keeps neither `v` nor the output, which the kernel reads.
pub(super) fn backward_applies(p: &Problem) -> bool {
    fits(p, 64) && (p.wants[0] || p.wants[1])
}

/// A map of `[N, L, H, D]` with boxes of `rows` rows of one head.
pub(super) fn map(
    cuda: &Cuda,
    what: &'static str,
    (address, spec): (u64, &Spec),
    rows: u32,
) -> Result<TensorMap> {
    let [n, l, h, d] = [0, 1, 2, 3].map(|i| spec.dims[i] as u64);
    let row = d * spec.dtype.size_bytes() as u64;
    cuda.tensor_map(&TensorMapSpec {
        what,
        address,
        dtype: spec.dtype,
        dims: vec![d, h, l, n],
        strides: vec![row, row * h, row * h * l],
        block: vec![BOX_CHANNELS, 1, rows, 1],
        swizzle: 128,
    })
}

/// Runs the variant `name`.
pub(super) fn forward(
    op: &Attention,
    cuda: &Cuda,
    (p, name): (&Problem, &str),
    io: &Forward<'_>,
) -> Result<()> {
    let padded = widths::forward(name);
    let symbol = padded.map_or_else(|| symbol(&FORWARD, p, name), |row| Ok(row.symbol(p)))?;
    let kernel = cuda.kernel::<ForwardMaps>("attention", symbol)?;
    let [q, k, v] = [0, 1, 2].map(|i| (io.ins[i].address(), &io.specs[i]));
    let out = (io.out.address(), io.out_spec);
    let keys = kernel.tile().block_cols;
    let args = ForwardMaps {
        q: map(cuda, "q", q, GROUP_ROWS)?,
        k: map(cuda, "k", k, keys)?,
        v: map(cuda, "v", v, keys)?,
        out: map(cuda, "out", out, GROUP_ROWS)?,
        lse: io.saved[0].address(),
        len_q: int(p.len_q)?,
        len_k: int(p.len_k)?,
        heads: int(p.heads)?,
        samples: int(p.samples)?,
        scale: op.scale,
        causal: i32::from(op.causal),
        unused: [0; 8],
    };
    let touches = [
        Touched::new("q", q.0, q.1),
        Touched::new("k", k.0, k.1),
        Touched::new("v", v.0, v.1),
        Touched::new("out", out.0, out.1),
        touched_lse(p, args.lse),
    ];
    let blocks = p.len_q.div_ceil(kernel.tile().block_rows as usize);
    let items = blocks * p.heads * p.samples;
    let rows = kernel.tile().block_rows as usize;
    let depth = padded.map_or(p.head_dim, |row| row.width);
    let walk = Walk::forward(Engine::Wgmma, p, rows, [keys as usize, depth]);
    let walk = widths::seen_keys(p, keys as usize, walk);
    let kernel = kernel.taking(walk.effort(p, &touches));
    cuda.launch(&kernel, cuda.persistent_grid(&kernel, items as u64)?, &args, &touches)
}

/// What both backward kernels are handed by tensor maps.
pub(super) struct Operands {
    /// Of `q, k, v, d_out`.
    pub inputs: [TensorMap; 4],
    /// Of `dq, dk, dv`; that of a gradient that is not wanted is never used.
    pub gradients: [TensorMap; 3],
    /// Where the gradients lie, and whether they are added to what is there.
    pub targets: [(u64, i32); 3],
    /// All of them, and so many bytes of the scratch.
    pub touches: Vec<Touched>,
}

/// The operands of a backward pass that uses `scratch` bytes.
pub(super) fn operands(
    cuda: &Cuda,
    p: &Problem,
    io: &Backward<'_>,
    scratch: usize,
) -> Result<Operands> {
    let of = |i: usize| (io.ins[i].address(), &io.specs[i]);
    let read =
        [("q", of(0)), ("k", of(1)), ("v", of(2)), ("d_out", (io.d_out.address(), io.out_spec))];
    let targets = [0, 1, 2].map(|i| target(&io.d_ins[i]));
    let (mut inputs, mut gradients) = ([TensorMap::default(); 4], [TensorMap::default(); 3]);
    let mut touches =
        vec![Touched { what: "scratch", address: io.scratch.address(), bytes: scratch }];
    for (to, (what, operand)) in inputs.iter_mut().zip(read) {
        *to = map(cuda, what, operand, BACKWARD_ROWS)?;
        touches.push(Touched::new(what, operand.0, operand.1));
    }
    for (i, what) in ["dq", "dk", "dv"].into_iter().enumerate().filter(|(i, _)| p.wants[*i]) {
        gradients[i] = map(cuda, what, (targets[i].0, &io.specs[i]), GROUP_ROWS)?;
        touches.push(Touched::new(what, targets[i].0, &io.specs[i]));
    }
    Ok(Operands { inputs, gradients, targets, touches })
}

/// Arguments, and the memory they touch.
fn backward_args(
    op: &Attention,
    cuda: &Cuda,
    p: &Problem,
    io: &Backward<'_>,
) -> Result<(BackwardMaps, Vec<Touched>)> {
    let (splits, pad_k) = p.split();
    let at = Scratch::of(p, io);
    let partial = if splits > 1 { p.partial_bytes(splits, pad_k) } else { 0 };
    let Operands { inputs, gradients, targets, touches } =
        operands(cuda, p, io, 2 * at.statistic_bytes + partial)?;
    let ([q, k, v, d_out], [dq, dk, dv]) = (inputs, gradients);
    let [(to_q, add_q), (to_k, add_k), (to_v, add_v)] = targets;
    let args = BackwardMaps {
        q,
        k,
        v,
        d_out,
        dq,
        dk,
        dv,
        lse2: at.lse2,
        delta: at.delta,
        partial: at.partial,
        to_q,
        to_k,
        to_v,
        len_q: int(p.len_q)?,
        len_k: int(p.len_k)?,
        stat_len: int(at.stat_len)?,
        heads: int(p.heads)?,
        samples: int(p.samples)?,
        splits: int(splits)?,
        scale: op.scale,
        add_q,
        add_k,
        add_v,
        head_dim: int(p.head_dim)?,
        causal: i32::from(op.causal),
        unused: [0; 8],
    };
    Ok((args, touches))
}

/// Runs the variant `name`. `GradMode::Accumulate`: the kernel adds in f32 before it rounds, or the
/// sum does.
pub(super) fn backward(
    op: &Attention,
    cuda: &Cuda,
    (p, name): (&Problem, &str),
    io: &Backward<'_>,
) -> Result<()> {
    prepare::statistics(cuda, p, io)?;
    let padded = widths::backward(name);
    let symbol = padded.map_or_else(|| symbol(&BACKWARD, p, name), |row| Ok(row.symbol(p)))?;
    let kernel = cuda.kernel::<BackwardMaps>("attention", symbol)?;
    let (args, touches) = backward_args(op, cuda, p, io)?;
    let (splits, pad_k) = p.split();
    let rows = kernel.tile().block_rows as usize;
    let keys = if p.wants[1] || p.wants[2] { p.len_k.div_ceil(rows) * splits } else { 0 };
    let queries = if p.wants[0] { p.len_q.div_ceil(rows) } else { 0 };
    let items = (keys + queries) * p.heads * p.samples;
    let depth = padded.map_or(p.head_dim, |row| row.width);
    let of_keys = Walk::keys(Engine::Wgmma, p, rows, [splits, depth]);
    let of_keys = widths::seen_queries(p, splits, of_keys);
    let of_queries = Walk::queries(Engine::Wgmma, p, rows, depth);
    let of_queries = widths::seen_keys(p, rows, of_queries);
    let kernel = kernel.taking(together(
        Walk { blocks: keys, ..of_keys }.effort(p, &touches),
        Walk { blocks: queries, ..of_queries }.effort(p, &touches),
    ));
    cuda.launch(&kernel, cuda.persistent_grid(&kernel, items as u64)?, &args, &touches)?;
    if keys > 0 && splits > 1 {
        prepare::sum(cuda, p, io, (splits, pad_k))?;
    }
    Ok(())
}
