// y = x w^T, bf16 and f16, Hopper.   out = alpha (x w^T + t l^T) + bias (+ out)     x (M,K), w (N,K), t (M,r), l (N,r), out (M,N)
// Work: 2 M N (K + r) flop.  Bytes: 2 (M K + N K + M N) once through HBM; w stays in the 50 MB L2. The adapter is r / K more K-steps.
// SDXL: 4096 x 3840 x 1280: 40 GFLOP, 52 MB -> 0.055 ms at 726 TFLOP/s; 4096 x 640 x 640: 0.007 ms. Bound by the multipliers.
// Tile: 256x160, 128x256, 128x160 with two consumer warpgroups, 128x160 ping-pong; clusters of 2 along M share w by multicast;
//   384 threads, 40 / 232 registers, 4-5 slabs of 64 in flight, 197-225 KiB shared, 1 block/SM, persistent. 160 divides 640, 1280, 5120.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of K are joined in order inside the kernel.
// Requires: K, N, rank % 8 == 0, 16-byte aligned operands; ragged M, N, K are zero-filled by the tensor maps.
#include "gemm/problem_sm90.cuh"

namespace linear {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Forward>;
using Tile128x256 = gemm::Tile<128, 256, 4, Layout::Forward>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Forward>;
using Ping128x160 = gemm::Tile<128, 160, 5, Layout::Forward, gemm::Order::PingPong>;

}  // namespace linear

EXPORT(linear_forward_sm90_256x160_bf16, linear::Tile256x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile256x160>))
EXPORT(linear_forward_sm90_256x160_f16, linear::Tile256x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile256x160>))
EXPORT(linear_forward_sm90_128x256_bf16, linear::Tile128x256, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile128x256>))
EXPORT(linear_forward_sm90_128x256_f16, linear::Tile128x256, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile128x256>))
EXPORT(linear_forward_sm90_128x160_bf16, linear::Tile128x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile128x160>))
EXPORT(linear_forward_sm90_128x160_f16, linear::Tile128x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile128x160>))
EXPORT(linear_forward_sm90_128x160_ping_bf16, linear::Ping128x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Ping128x160>))
EXPORT(linear_forward_sm90_128x160_ping_f16, linear::Ping128x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Ping128x160>))
