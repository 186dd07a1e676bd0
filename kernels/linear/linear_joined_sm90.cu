// y_i = x w_i^T + b_i of up to 8 layers on one x, bf16 and f16, Hopper.   (+ t_i l_i^T: their adapters)
// x (M,K), w_i (N,K), b_i (N), y_i (M,N), t (M,parts r), l_i (N,r).
// Work: 2 P M N (K + r) flop.  Bytes: 2 (M K + P N K + P M N) once through HBM.
// SDXL's q, k, v at 2 x 4096 x 640: 20 GFLOP, 44 MB -> 0.028 ms at 726 TFLOP/s; one launch instead of three.
// Tile: 256x160 and 128x160, clusters of 2 along M share a weight's slab by multicast; 384 threads, 40 / 232 registers, 1 block/SM.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of K are joined in order inside the kernel.
// input: dx (M,K) = sum_i dy_i w_i + g a, dy (parts M,N), g (M,parts r), a (parts r,K): one sum, written once instead of added up.
// Requires: K, N, rank % 8 == 0, 16-byte aligned operands; all parts of one N; ragged edges are zero-filled by the tensor maps.
#include "gemm/joined_sm90.cuh"

namespace linear {

using gemm::Layout;
using Joined256x160 = gemm::Tile<256, 160, 4, Layout::Forward>;
using Joined128x160 = gemm::Tile<128, 160, 5, Layout::Forward>;
using Input256x160 = gemm::Tile<256, 160, 4, Layout::Input>;
using Input128x160 = gemm::Tile<128, 160, 5, Layout::Input>;

}  // namespace linear

EXPORT(linear_joined_sm90_256x160_bf16, linear::Joined256x160, gemm::JoinedArgs<bf16>,
       (gemm::joined_product<bf16, linear::Joined256x160>))
EXPORT(linear_joined_sm90_256x160_f16, linear::Joined256x160, gemm::JoinedArgs<f16>,
       (gemm::joined_product<f16, linear::Joined256x160>))
EXPORT(linear_joined_sm90_128x160_bf16, linear::Joined128x160, gemm::JoinedArgs<bf16>,
       (gemm::joined_product<bf16, linear::Joined128x160>))
EXPORT(linear_joined_sm90_128x160_f16, linear::Joined128x160, gemm::JoinedArgs<f16>,
       (gemm::joined_product<f16, linear::Joined128x160>))
EXPORT(linear_joined_input_sm90_256x160_bf16, linear::Input256x160, gemm::JoinedInputArgs<bf16>,
       (gemm::joined_input<bf16, linear::Input256x160>))
EXPORT(linear_joined_input_sm90_256x160_f16, linear::Input256x160, gemm::JoinedInputArgs<f16>,
       (gemm::joined_input<f16, linear::Input256x160>))
EXPORT(linear_joined_input_sm90_128x160_bf16, linear::Input128x160, gemm::JoinedInputArgs<bf16>,
       (gemm::joined_input<bf16, linear::Input128x160>))
EXPORT(linear_joined_input_sm90_128x160_f16, linear::Input128x160, gemm::JoinedInputArgs<f16>,
       (gemm::joined_input<f16, linear::Input128x160>))
