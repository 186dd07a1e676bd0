// A GEGLU layer and its backward pass's first product, bf16 and f16, Hopper.
// layer: [v, g] = x w^T + b, y = v gelu(g); keeps v, g (M,N).   input: dh = dy w, dv = gelu(g) dh, dg = v gelu'(g) dh (M,2N).
// Work: 2 M N K flop.  Bytes: layer 2 (M K + N K + 1.5 M N), where apart 2.5 M N more; input 2 (M K + N K + 4 M N), apart 2 M N more.
// SDXL, batch 4, 4096 x 10240 x 1280: 107 GFLOP, 163 MB -> 0.15 ms at 697 TFLOP/s; input 4096 x 5120 x 1280: 54 GFLOP, 191 MB -> 0.08 ms.
// Tile: layer 128x256 (128 results), input 128x128 ping-pong; clusters of 2, 384 threads, 40 / 232 registers, 1 block/SM.
// Measured: see NOTES.md.   Determinism: bitwise.   Requires: K, N % 8 == 0 (layer N % 16), 16-byte aligned operands.
#include "gemm/gated_sm90.cuh"

namespace linear {

using Kept = gemm::Tile<128, 256, 4>;
using GatedInput = gemm::Tile<128, 128, 5, gemm::Layout::Input, gemm::Order::PingPong, 2, 4>;

}  // namespace linear

EXPORT(linear_kept_sm90_bf16, linear::Kept, gemm::GatedArgs<bf16>, (gemm::kept_product<bf16, linear::Kept>))
EXPORT(linear_kept_sm90_f16, linear::Kept, gemm::GatedArgs<f16>, (gemm::kept_product<f16, linear::Kept>))
EXPORT(linear_gated_input_sm90_bf16, linear::GatedInput, gemm::GatedArgs<bf16>,
       (gemm::gated_input<bf16, linear::GatedInput>))
EXPORT(linear_gated_input_sm90_f16, linear::GatedInput, gemm::GatedArgs<f16>,
       (gemm::gated_input<f16, linear::GatedInput>))
