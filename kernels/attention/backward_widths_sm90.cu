// attention backward, bf16/f16, Hopper, other head widths and causal masks.   Q, dQ: (N, Lq, H, D)
// K, V, dK, dV: (N, Lk, H, D); columns past D read zeros up to the tile's width W, stores are clipped.
// Formulas, items and products: backward_sm90.cu. Causal: an item of keys streams the queries from its own on, an
//   item of queries the keys up to its own.
// Work: 14*N*H*Lq*Lk*W flop, about half when causal.  Bytes: 2*N*H*D*(3 Lq + 4 Lk).
//   SD 1.5 N=2 H=8 L=4096 D=40: 180 GFLOP of W = 48; tensor 190 us, MUFU 145 us, HBM 37 MB = 9 us:
//   tensor-bound.
// Tile: 128 x 128, 2 consumer warpgroups of 64 rows x 240 registers + producer 24. W = 48, 64: 196 KiB; W = 80: one
//   resident pair, in whose place the gradients are staged, 2 stages: 194 KiB.
// Determinism: bitwise, no atomics, no semaphores.   Requires: D % 8 == 0, D <= 80, Lq, Lk >= 1; prepare.cu before,
//   its sum after where the queries are split.
#include "attention/backward_sm90.cuh"

namespace attention {

template <class T> using W48 = BackwardTile<T, false, 48, false>;
template <class T> using W64 = BackwardTile<T, false, 64, false>;
template <class T> using W80 = BackwardTile<T, false, 80, false>;

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_sm90_w48_bf16, W48<bf16>, BackwardMaps, backward<W48<bf16>>)
EXPORT(attention_backward_sm90_w48_f16, W48<f16>, BackwardMaps, backward<W48<f16>>)
EXPORT(attention_backward_sm90_w64_bf16, W64<bf16>, BackwardMaps, backward<W64<bf16>>)
EXPORT(attention_backward_sm90_w64_f16, W64<f16>, BackwardMaps, backward<W64<f16>>)
EXPORT(attention_backward_sm90_w80_bf16, W80<bf16>, BackwardMaps, backward<W80<bf16>>)
EXPORT(attention_backward_sm90_w80_f16, W80<f16>, BackwardMaps, backward<W80<f16>>)
