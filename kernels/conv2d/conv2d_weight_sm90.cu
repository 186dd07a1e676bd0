// convolution weight gradient, bf16 f16, Hopper.   dw[o, tap, c] (+)= sum_p dy[p, o] x[p + tap, c]
//   dy: (N, H', W', O), x: (N, H, W, C), both MN-major as they lie; dw: (O, kh, kw, C). A slab is 64 pixels.
// Work: 2*N*H'*W'*O*kh*kw*C flop.  Bytes: every operand once from HBM; then x for each tile of rows and dy
//   for every two tiles of columns from L2: clusters of 2 along the columns share dy by multicast.
// SDXL 320 -> 320 at 128x128, N=2: 60 GFLOP, 44 MB: 0.09 ms at 680 TF, 0.010 ms at 4.3 TB/s -> bound by L2 (128x160)
//   or shared memory (256x160).
// Tile: 256x160 (4 slabs), 128x160 (5); 384 threads, 40 / 232 registers, 197-225 KiB, 1 block/SM, persistent.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of the pixels are joined in order inside the kernel.
// Requires: C % 64 == 0, O % 8 == 0, 16-byte aligned operands; stride 2: an even image; upsampling: an even
//   output; at most 36 taps over the copies of a pixel.
#include "conv2d/taps_sm90.cuh"

namespace conv2d {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Weight>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Weight>;

}  // namespace conv2d

EXPORT(conv2d_weight_sm90_256x160_bf16, conv2d::Tile256x160, conv2d::TapArgs<bf16>,
       (conv2d::weighted<bf16, conv2d::Tile256x160>))
EXPORT(conv2d_weight_sm90_256x160_f16, conv2d::Tile256x160, conv2d::TapArgs<f16>,
       (conv2d::weighted<f16, conv2d::Tile256x160>))
EXPORT(conv2d_weight_sm90_128x160_bf16, conv2d::Tile128x160, conv2d::TapArgs<bf16>,
       (conv2d::weighted<bf16, conv2d::Tile128x160>))
EXPORT(conv2d_weight_sm90_128x160_f16, conv2d::Tile128x160, conv2d::TapArgs<f16>,
       (conv2d::weighted<f16, conv2d::Tile128x160>))
