// y = f(x w^T + b) (+ r) and y = value gelu(gate) (+ r), bf16 and f16, Hopper, forward only.
// x (M,K), w (N,K); f: SiLU, GELU, quick GELU or ReLU, y (M,N); GEGLU: value, gate = the halves of x w^T + b, y (M,N/2).
// Work: 2 M N K flop.  Bytes: 2 (M K + N K + |y|) once; GEGLU writes N / 2 columns instead of writing N, reading N, writing N / 2.
// SDXL GEGLU 4096 x 5120 x 640: 27 GFLOP, 33 MB -> 0.039 ms at 697 TFLOP/s; saves 84 MB, 0.02 ms at 4.3 TB/s, and a launch.
// Tile: GEGLU 128x256 (128 output columns), activation 128x160; clusters of 2, 384 threads, 40 / 232 registers, 1 block/SM.
// Measured: see NOTES.md.   Determinism: bitwise.   Requires: K, N % 8 == 0 (N % 16 for GEGLU), 16-byte aligned operands.
#include "gemm/fused_sm90.cuh"

namespace linear {

using gemm::Then;
using Gated = gemm::Tile<128, 256, 4>;
using Activated = gemm::Tile<128, 160, 5>;

}  // namespace linear

EXPORT(linear_geglu_sm90_bf16, linear::Gated, gemm::FusedArgs<bf16>,
       (gemm::fused_product<bf16, linear::Gated, linear::Then::Gated>))
EXPORT(linear_geglu_sm90_f16, linear::Gated, gemm::FusedArgs<f16>,
       (gemm::fused_product<f16, linear::Gated, linear::Then::Gated>))
EXPORT(linear_activated_sm90_bf16, linear::Activated, gemm::FusedArgs<bf16>,
       (gemm::fused_product<bf16, linear::Activated, linear::Then::Activation>))
EXPORT(linear_activated_sm90_f16, linear::Activated, gemm::FusedArgs<f16>,
       (gemm::fused_product<f16, linear::Activated, linear::Then::Activation>))
