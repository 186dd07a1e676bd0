// attention backward, bf16/f16, Hopper, D = 64.   Q, dQ: (N, Lq, H, 64)  K, V, dK, dV: (N, Lk, H, 64).
// dV = P^T dO,  dS = P o (dO V^T - delta),  dK = scale dS^T Q,  dQ = scale dS K;  P is recomputed from LSE.
// Two kinds of work item in one persistent launch, each a chain of register operands: the accumulators S and
// dP become P and dS, the operands of the next wgmma, with no trip through shared memory and no barrier
// between warpgroups.
//         resident (R0, R1)   streamed (X0, X1)   products of a (128 x 128) block          cost
//   kv:   K, V                Q, dO               S^T, dP^T, dV += P^T dO, dK += dS^T Q    4
//   q:    Q, dO               K, V                S, dP, dQ += dS K                        3
// Work: 14*N*H*Lq*Lk*64 flop (7 products; 5 are the minimum), 2 exp a score. Why recompute: NOTES.md.
//   SDXL N=1 H=10 L=4096: 150 GFLOP done, 107 useful; tensor 158 us, MUFU 91 us, HBM 45 MB = 11 us:
//   tensor-bound.
// Tile: 128 x 128, 2 consumer warpgroups of 64 rows x 240 registers + producer 24; the resident pair is
//   double-buffered, 3 stages of the streamed pair; 196 KiB, 1 block/SM.
// Predicted, not measured: 4096x4096x10 N=1 330-400 us; 1024x1024x20 N=1 50-62 us.
// Determinism: bitwise, no atomics, no semaphores.   Requires: Lq, Lk >= 1, not causal; prepare.cu before,
//   its sum after where the queries are split (77 text keys).
#include "attention/backward_sm90.cuh"

namespace attention {

template <class T> using Free = BackwardTile<T, false>;
template <class T> using Turns = BackwardTile<T, true>;

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_sm90_bf16, Free<bf16>, BackwardMaps, backward<Free<bf16>>)
EXPORT(attention_backward_sm90_f16, Free<f16>, BackwardMaps, backward<Free<f16>>)
EXPORT(attention_backward_sm90_turns_bf16, Turns<bf16>, BackwardMaps, backward<Turns<bf16>>)
EXPORT(attention_backward_sm90_turns_f16, Turns<f16>, BackwardMaps, backward<Turns<f16>>)
