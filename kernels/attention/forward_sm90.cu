// attention forward, bf16/f16, Hopper.   O = softmax(scale Q K^T) V, LSE saved.   Q, O: (N, Lq, H, D)
// K, V: (N, Lk, H, D), by 4D tensor maps (D, H, L, N): tails read zeros, stores are clipped.
// Work: 4*N*H*Lq*Lk*D flop, N*H*Lq*Lk exp.  Bytes: 2*N*H*D*(2 Lq + 2 Lk) + 4*N*H*Lq.
//   SDXL N=1 H=10 L=4096 D=64: 42.9 GFLOP, 0.168 G exp, 21 MB. Tensor 45 us, MUFU 45 us, HBM 5 us: at D=64
//   three pipes are at their limit together and must overlap. Clocks of an SM: NOTES.md.
// Tile: BlockM = 64 * Consumers, BlockN 128 (80 for text keys, 192 with polynomials); ring of K, V stages;
//   1 producer + 2 or 3 consumer warpgroups, 1 block/SM, persistent. 3 consumers: 512 threads, 32/160
//   registers, 177 KiB; 2 consumers: 384 threads, 24/240 registers, 161 KiB (D=128: 193 KiB).
// Predicted, not measured: 4096x4096x10 N=1 93-112 us, N=4 330-395 us; 1024x1024x20 N=1 14-17 us.
// Determinism: bitwise, a row is made by one warpgroup in one key order.
// Requires: D in {64, 128}, Lk >= 1, Lq >= 1, scale > 0, not causal.
#include "attention/forward_sm90.cuh"

namespace attention {

template <class T> using M192 = ForwardTile<T, 64, 3, 128, 4, 0>;
template <class T> using M128 = ForwardTile<T, 64, 2, 128, 4, 0>;
template <class T> using M128N192Poly = ForwardTile<T, 64, 2, 192, 3, 8>;
template <class T> using N80 = ForwardTile<T, 64, 3, 80, 2, 0>;  // 77 text tokens in one key block
template <class T> using D128 = ForwardTile<T, 128, 2, 128, 2, 0>;

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_sm90_m192_bf16, M192<bf16>, ForwardMaps, forward<M192<bf16>>)
EXPORT(attention_forward_sm90_m192_f16, M192<f16>, ForwardMaps, forward<M192<f16>>)
EXPORT(attention_forward_sm90_m128_bf16, M128<bf16>, ForwardMaps, forward<M128<bf16>>)
EXPORT(attention_forward_sm90_m128_f16, M128<f16>, ForwardMaps, forward<M128<f16>>)
EXPORT(attention_forward_sm90_n192_poly_bf16, M128N192Poly<bf16>, ForwardMaps, forward<M128N192Poly<bf16>>)
EXPORT(attention_forward_sm90_n192_poly_f16, M128N192Poly<f16>, ForwardMaps, forward<M128N192Poly<f16>>)
EXPORT(attention_forward_sm90_n80_bf16, N80<bf16>, ForwardMaps, forward<N80<bf16>>)
EXPORT(attention_forward_sm90_n80_f16, N80<f16>, ForwardMaps, forward<N80<f16>>)
EXPORT(attention_forward_sm90_d128_bf16, D128<bf16>, ForwardMaps, forward<D128<bf16>>)
EXPORT(attention_forward_sm90_d128_f16, D128<f16>, ForwardMaps, forward<D128<f16>>)
