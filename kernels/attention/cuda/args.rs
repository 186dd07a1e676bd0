//! Arguments of the kernels on ordinary pointers (`args.cuh`), and the memory they touch.

use super::{Problem, STAT_ROWS, int, statistics};
use crate::{
    device::{Buf, Touched},
    error::Result,
    kernels::attention::Attention,
    op::{Backward, Forward, Grad, GradMode},
};

/// Twin of `ForwardArgs`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct ForwardArgs {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    lse: u64,
    len_q: i32,
    len_k: i32,
    heads: i32,
    head_dim: i32,
    scale: f32,
    causal: i32,
}

/// Twin of `BackwardArgs`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct BackwardArgs {
    q: u64,
    k: u64,
    v: u64,
    d_out: u64,
    dq: u64,
    dk: u64,
    dv: u64,
    lse: u64,
    lse2: u64,
    delta: u64,
    partial: u64,
    len_q: i32,
    len_k: i32,
    heads: i32,
    head_dim: i32,
    stat_len: i32,
    pad_k: i32,
    scale: f32,
    causal: i32,
    add_q: i32,
    add_k: i32,
    add_v: i32,
    splits: i32,
}

/// Where the parts of backward's scratch stand: padded `lse` in powers of two, `delta`, partial
/// sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scratch {
    pub lse2: u64,
    pub delta: u64,
    pub partial: u64,
    /// Bytes of each statistic.
    pub statistic_bytes: usize,
    /// Padded queries of a head.
    pub stat_len: usize,
}

impl Scratch {
    pub fn of(p: &Problem, io: &Backward<'_>) -> Self {
        let statistic_bytes = statistics(p.samples, p.len_q, p.heads) * size_of::<f32>();
        let lse2 = io.scratch.address();
        let delta = lse2 + statistic_bytes as u64;
        let partial = delta + statistic_bytes as u64;
        let stat_len = p.len_q.next_multiple_of(STAT_ROWS);
        Self { lse2, delta, partial, statistic_bytes, stat_len }
    }
}

/// The saved log-sum-exp.
pub(super) fn touched_lse(p: &Problem, address: u64) -> Touched {
    Touched { what: "lse", address, bytes: p.samples * p.len_q * p.heads * size_of::<f32>() }
}

pub(super) fn forward(
    op: &Attention,
    p: &Problem,
    io: &Forward<'_>,
) -> Result<(ForwardArgs, Vec<Touched>)> {
    let args = ForwardArgs {
        q: io.ins[0].address(),
        k: io.ins[1].address(),
        v: io.ins[2].address(),
        out: io.out.address(),
        lse: io.saved[0].address(),
        len_q: int(p.len_q)?,
        len_k: int(p.len_k)?,
        heads: int(p.heads)?,
        head_dim: int(p.head_dim)?,
        scale: op.scale,
        causal: i32::from(op.causal),
    };
    let touches = vec![
        Touched::new("q", args.q, &io.specs[0]),
        Touched::new("k", args.k, &io.specs[1]),
        Touched::new("v", args.v, &io.specs[2]),
        Touched::new("out", args.out, io.out_spec),
        touched_lse(p, args.lse),
    ];
    Ok((args, touches))
}

/// The gradient's address, 0 where it is not wanted, and whether it is added.
pub(super) fn target(grad: &Grad<'_>) -> (u64, i32) {
    let add = i32::from(grad.mode == GradMode::Accumulate);
    if grad.wanted() { (grad.buf.address(), add) } else { (0, 0) }
}

/// An input's address, 0 where it was not kept.
fn address(buf: Buf<'_>, kept: bool) -> u64 {
    if kept { buf.address() } else { 0 }
}

/// The plain arguments of a pass with a bias: `p.wants` says which kernels run, `wanted` which gradients there are.
pub(super) fn biased_backward(
    op: &Attention,
    (p, wanted): (&Problem, [bool; 3]),
    io: &Backward<'_>,
) -> Result<(BackwardArgs, Vec<Touched>)> {
    let (args, mut touches) = backward(op, p, io, (1, 0))?;
    touches.retain(|t| t.what != "dq" || wanted[0]);
    Ok((args, touches))
}

/// `splits` parts of the queries, `pad_k` padded keys of a partial sum.
pub(super) fn backward(
    op: &Attention,
    p: &Problem,
    io: &Backward<'_>,
    (splits, pad_k): (usize, usize),
) -> Result<(BackwardArgs, Vec<Touched>)> {
    let scores = p.wants[0] || p.wants[1];
    let at = Scratch::of(p, io);
    let ((dq, add_q), (dk, add_k), (dv, add_v)) =
        (target(&io.d_ins[0]), target(&io.d_ins[1]), target(&io.d_ins[2]));
    let args = BackwardArgs {
        q: io.ins[0].address(),
        k: io.ins[1].address(),
        v: address(io.ins[2], scores),
        d_out: io.d_out.address(),
        dq,
        dk,
        dv,
        lse: io.saved[0].address(),
        lse2: at.lse2,
        delta: at.delta,
        partial: at.partial,
        len_q: int(p.len_q)?,
        len_k: int(p.len_k)?,
        heads: int(p.heads)?,
        head_dim: int(p.head_dim)?,
        stat_len: int(at.stat_len)?,
        pad_k: int(pad_k)?,
        scale: op.scale,
        causal: i32::from(op.causal),
        add_q,
        add_k,
        add_v,
        splits: int(splits)?,
    };
    let partial = if splits > 1 { p.partial_bytes(splits, pad_k) } else { 0 };
    let scratch = 2 * at.statistic_bytes + partial;
    let mut touches = vec![
        Touched::new("q", args.q, &io.specs[0]),
        Touched::new("k", args.k, &io.specs[1]),
        Touched::new("d_out", args.d_out, io.out_spec),
        touched_lse(p, args.lse),
        Touched { what: "scratch", address: at.lse2, bytes: scratch },
    ];
    if scores {
        touches.push(Touched::new("v", args.v, &io.specs[2]));
    }
    for (i, (what, address)) in [("dq", dq), ("dk", dk), ("dv", dv)].into_iter().enumerate() {
        if p.wants[i] {
            touches.push(Touched::new(what, address, &io.specs[i]));
        }
    }
    Ok((args, touches))
}
