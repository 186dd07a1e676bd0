// attention forward, bf16/f16, Hopper, other head widths and causal masks.   O = softmax(scale Q K^T) V, LSE saved.
// Q, O: (N, Lq, H, D)  K, V: (N, Lk, H, D), by 4D tensor maps (D, H, L, N): columns past D read zeros up to the
// tile's width W, stores are clipped. Causal: query i sees keys 0 .. i; blocks that no query of a tile sees are
// not read.
// Work: 4*N*H*Lq*Lk*W flop, about half when causal.  Bytes: 2*N*H*D*(2 Lq + 2 Lk) + 4*N*H*Lq.
//   SD 1.5 N=2 H=8 L=4096 D=40: 43 GFLOP as 52 of W = 48, 0.27 G exp, 21 MB. Tensor 54 us, MUFU 72 us, HBM 5 us:
//   MUFU-bound; at W = 80 and more tensor-bound.
// Tile: 64 * Consumers queries x BlockN keys; the kernel of forward_sm90.cuh. W = 48, 64: 128 x 128, 80 and 128:
//   128 x 128 with 2 stages, 160: 128 x 80; text keys: 192 x 80.
// Determinism: bitwise, a row is made by one warpgroup in one key order.
// Requires: D % 8 == 0, D <= 160, Lk >= 1, Lq >= 1, scale > 0.
#include "attention/forward_sm90.cuh"

namespace attention {

template <class T> using W48 = MaybeCausal<ForwardTile<T, 48, 2, 128, 4, 0>>;
template <class T> using W64 = MaybeCausal<ForwardTile<T, 64, 2, 128, 4, 0>>;
template <class T> using W64N80 = MaybeCausal<ForwardTile<T, 64, 3, 80, 2, 0>>;  // 77 text tokens in one key block
template <class T> using W80 = MaybeCausal<ForwardTile<T, 80, 2, 128, 2, 0>>;
template <class T> using W128 = MaybeCausal<ForwardTile<T, 128, 2, 128, 2, 0>>;
template <class T> using W160 = MaybeCausal<ForwardTile<T, 160, 2, 80, 2, 0>>;

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_sm90_w48_bf16, W48<bf16>, ForwardMaps, forward<W48<bf16>>)
EXPORT(attention_forward_sm90_w48_f16, W48<f16>, ForwardMaps, forward<W48<f16>>)
EXPORT(attention_forward_sm90_w64_bf16, W64<bf16>, ForwardMaps, forward<W64<bf16>>)
EXPORT(attention_forward_sm90_w64_f16, W64<f16>, ForwardMaps, forward<W64<f16>>)
EXPORT(attention_forward_sm90_w64_n80_bf16, W64N80<bf16>, ForwardMaps, forward<W64N80<bf16>>)
EXPORT(attention_forward_sm90_w64_n80_f16, W64N80<f16>, ForwardMaps, forward<W64N80<f16>>)
EXPORT(attention_forward_sm90_w80_bf16, W80<bf16>, ForwardMaps, forward<W80<bf16>>)
EXPORT(attention_forward_sm90_w80_f16, W80<f16>, ForwardMaps, forward<W80<f16>>)
EXPORT(attention_forward_sm90_w128_bf16, W128<bf16>, ForwardMaps, forward<W128<bf16>>)
EXPORT(attention_forward_sm90_w128_f16, W128<f16>, ForwardMaps, forward<W128<f16>>)
EXPORT(attention_forward_sm90_w160_bf16, W160<bf16>, ForwardMaps, forward<W160<bf16>>)
EXPORT(attention_forward_sm90_w160_f16, W160<f16>, ForwardMaps, forward<W160<f16>>)
