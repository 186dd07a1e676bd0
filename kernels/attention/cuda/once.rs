//! Launches of `backward_once_sm90.cu`: backward in one pass, the gradient of the queries added up in order.

use super::{
    Problem,
    args::Scratch,
    effort::Walk,
    int, prepare,
    sm90::{BACKWARD_ROWS, GROUP_ROWS, Operands, operands},
};
use crate::{
    device::{COUNTERS, Cuda, TensorMap, Touched},
    error::Result,
    kernels::attention::Attention,
    op::Backward,
    tensor::DType,
};

/// Twin of `OnceMaps`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct OnceMaps {
    q: TensorMap,
    k: TensorMap,
    v: TensorMap,
    d_out: TensorMap,
    dk: TensorMap,
    dv: TensorMap,
    lse2: u64,
    delta: u64,
    sums: u64,
    counters: u64,
    to_q: u64,
    to_k: u64,
    to_v: u64,
    len_q: i32,
    len_k: i32,
    stat_len: i32,
    heads: i32,
    samples: i32,
    ring: i32,
    scale: f32,
    add_q: i32,
    add_k: i32,
    add_v: i32,
    unused: [i32; 8],
}

const SYMBOLS: [&str; 2] =
    ["attention_backward_sm90_once_bf16", "attention_backward_sm90_once_f16"];

/// Rows of a block of queries or keys.
const ROWS: usize = BACKWARD_ROWS as usize;
/// Most blocks that walk over a head together; below the multiprocessors of every Hopper, so that the order of a sum
/// does not depend on the machine.
const RING: usize = 64;

/// Channels of a head that the kernel is for.
const HEAD_DIM: usize = 64;

/// Bytes of the f32 sums of the queries' gradients, `[N, H, blocks of queries, 128, 64]`; 0 where the kernel never runs.
pub(super) fn sums_bytes(dtype: DType, causal: bool, q: &[usize], len_k: usize) -> usize {
    let serves = dtype.size_bytes() == 2 && !causal && q[3] == HEAD_DIM && len_k > ROWS;
    let rows = q[0] * q[2] * q[1].next_multiple_of(ROWS);
    if serves { rows * HEAD_DIM * size_of::<f32>() } else { 0 }
}

/// Words that turns are counted in: one for the queries of a warpgroup.
fn words(p: &Problem) -> usize {
    p.samples * p.heads * p.len_q.next_multiple_of(ROWS) / GROUP_ROWS as usize
}

/// More than one block of keys, gradients of the queries and of something else, and a counter for all queries.
pub(super) fn applies(p: &Problem) -> bool {
    let more = p.wants[0] && (p.wants[1] || p.wants[2]);
    super::sm90::backward_applies(p) && more && p.len_k > ROWS && words(p) <= COUNTERS
}

/// Blocks that walk over a head together where `room` run at a time: its key blocks in equal parts, and no more of them
/// than blocks of queries, so that each begins at its own.
fn ring(p: &Problem, room: usize) -> usize {
    let keys = p.len_k.div_ceil(ROWS);
    let most = RING.min(p.len_q.div_ceil(ROWS)).min(room).max(1);
    keys.div_ceil(keys.div_ceil(most))
}

/// Runs it.
pub(super) fn backward(op: &Attention, cuda: &Cuda, p: &Problem, io: &Backward<'_>) -> Result<()> {
    prepare::statistics(cuda, p, io)?;
    let symbol = SYMBOLS[usize::from(p.dtype == DType::F16)];
    let kernel = cuda.kernel::<OnceMaps>("attention", symbol)?;
    let room = cuda.persistent_grid(&kernel, u64::MAX)?[0];
    let ring = ring(p, usize::try_from(room).unwrap_or(usize::MAX));
    let at = Scratch::of(p, io);
    let sums = sums_bytes(p.dtype, p.causal, &io.specs[0].dims, p.len_k);
    let Operands { inputs, gradients, targets, mut touches } =
        operands(cuda, p, io, 2 * at.statistic_bytes + sums)?;
    let ([q, k, v, d_out], [_, dk, dv]) = (inputs, gradients);
    let [(to_q, add_q), (to_k, add_k), (to_v, add_v)] = targets;
    let args = OnceMaps {
        q,
        k,
        v,
        d_out,
        dk,
        dv,
        lse2: at.lse2,
        delta: at.delta,
        sums: at.partial,
        counters: cuda.counters(),
        to_q,
        to_k,
        to_v,
        len_q: int(p.len_q)?,
        len_k: int(p.len_k)?,
        stat_len: int(at.stat_len)?,
        heads: int(p.heads)?,
        samples: int(p.samples)?,
        ring: int(ring)?,
        scale: op.scale,
        add_q,
        add_k,
        add_v,
        unused: [0; 8],
    };
    let bytes = words(p) * size_of::<u32>();
    touches.push(Touched { what: "counters", address: args.counters, bytes });
    let kernel = kernel.taking(Walk::once(p, ROWS, sums).effort(p, &touches));
    let rings = (p.samples * p.heads) as u64;
    let groups = rings.min(room / ring as u64).max(1);
    cuda.launch(&kernel, [groups * ring as u64, 1, 1], &args, &touches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cubin_table::Target;

    fn problem(len_q: usize, len_k: usize) -> Problem {
        Problem {
            target: Target::Host,
            multiprocessors: 132,
            dtype: DType::Bf16,
            samples: 1,
            len_q,
            len_k,
            heads: 1,
            head_dim: HEAD_DIM,
            causal: false,
            scale: 1.0,
            wants: [true; 3],
        }
    }

    /// `turn` of the kernel's `Item`.
    fn turn([before, members, member]: [usize; 3], i: usize) -> usize {
        before + if i < member { members + i } else { i.min(members - 1) } - member
    }

    #[test]
    fn every_block_has_its_own_turn_and_waits_for_earlier_steps_only() {
        for (keys, queries, room) in [
            (2, 1, 132),
            (2, 3, 132),
            (8, 8, 132),
            (7, 5, 132),
            (33, 32, 20),
            (9, 40, 1),
            (130, 70, 132),
        ] {
            let ring = ring(&problem(queries * ROWS, keys * ROWS), room);
            assert!(ring <= queries.min(room) && ring >= 1);
            for i in 0..queries {
                let mut seen = vec![None; keys];
                for key in 0..keys {
                    let (before, member) = (key / ring * ring, key % ring);
                    let members = ring.min(keys - before);
                    let step = (i + queries - member) % queries;
                    let at = turn([before, members, member], i);
                    assert!(seen[at].replace((before, step)).is_none(), "{keys} {queries} {i}");
                }
                assert!(seen.windows(2).all(|w| w[0] < w[1]), "{keys} {queries} {i}: {seen:?}");
            }
        }
    }

    #[test]
    fn rings_are_equal_parts_of_the_keys() {
        for (len_q, len_k, expected) in [
            (4096, 4096, 32),
            (1024, 1024, 8),
            (8320, 8320, 33),
            (4096, 8320, 22),
            (100, 4096, 1),
            (4096, 150, 2),
        ] {
            assert_eq!(ring(&problem(len_q, len_k), 132), expected, "{len_q} {len_k}");
        }
    }
}
