// dw = dy^T x, bf16 and f16, Hopper.   out = alpha dy^T x (+ out)     dy (K,M), x (K,N) as they lie, out (M,N); K: rows of the layer
// Work: 2 M N K flop.  Bytes: 2 (K M + K N + M N) once through HBM. Both are MN-major wgmma operands: no transposed copy.
// SDXL: 1280 x 1280 x 4096: 13 GFLOP, 24 MB -> 0.025 ms at 540 TFLOP/s in 3 ranges of K. Bound by the multipliers.
// Tile: 256x160, 128x160; clusters of 2 along M share x; 384 threads, 40 / 232 registers, 4-5 slabs of 64, 197-225 KiB shared, 1 block/SM.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of K are joined in order inside the kernel.
// Requires: M, N % 8 == 0, 16-byte aligned operands; ragged extents are zero-filled by the tensor maps.
#include "gemm/problem_sm90.cuh"

namespace linear {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Weight>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Weight>;

}  // namespace linear

EXPORT(linear_weight_sm90_256x160_bf16, linear::Tile256x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile256x160>))
EXPORT(linear_weight_sm90_256x160_f16, linear::Tile256x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile256x160>))
EXPORT(linear_weight_sm90_128x160_bf16, linear::Tile128x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile128x160>))
EXPORT(linear_weight_sm90_128x160_f16, linear::Tile128x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile128x160>))
