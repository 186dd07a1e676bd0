// dx = dy w, bf16 and f16, Hopper.   out = alpha (dy w + u a) (+ out)     dy (M,K), w (K,N) as it lies, u (M,r), a (r,N), out (M,N)
// Work: 2 M N (K + r) flop.  Bytes: 2 (M K + N K + M N) once through HBM. w is an MN-major wgmma operand: no transposed copy.
// SDXL: 4096 x 1280 x 3840: 40 GFLOP, 52 MB -> 0.054 ms at 753 TFLOP/s; 1024 x 1280 x 10240 in 4 ranges: 0.042 ms. Bound by the multipliers.
// Tile: 256x160, 128x256, 128x160; clusters of 2 along M; 384 threads, 40 / 232 registers, 4-5 slabs of 64, 197-225 KiB shared, 1 block/SM.
//   160 columns are 2.5 atoms of 64, so these tiles use atoms of 32 columns (64-byte swizzle).
// Measured: see NOTES.md.   Determinism: bitwise; ranges of K are joined in order inside the kernel.
// Requires: K, N, rank % 8 == 0, 16-byte aligned operands; ragged extents are zero-filled by the tensor maps.
#include "gemm/problem_sm90.cuh"

namespace linear {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Input>;
using Tile128x256 = gemm::Tile<128, 256, 4, Layout::Input>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Input>;

}  // namespace linear

EXPORT(linear_input_sm90_256x160_bf16, linear::Tile256x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile256x160>))
EXPORT(linear_input_sm90_256x160_f16, linear::Tile256x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile256x160>))
EXPORT(linear_input_sm90_128x256_bf16, linear::Tile128x256, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile128x256>))
EXPORT(linear_input_sm90_128x256_f16, linear::Tile128x256, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile128x256>))
EXPORT(linear_input_sm90_128x160_bf16, linear::Tile128x160, gemm::TensorArgs<bf16>,
       (gemm::tensor_product<bf16, linear::Tile128x160>))
EXPORT(linear_input_sm90_128x160_f16, linear::Tile128x160, gemm::TensorArgs<f16>,
       (gemm::tensor_product<f16, linear::Tile128x160>))
