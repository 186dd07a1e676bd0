// convolution forward, bf16 f16, Hopper.   y[p, o] = b[o] + t[image of p, o] + sum_{tap, c} x[p + tap, c] w[o, tap, c]
//   x: (N, H, W, C), w: (O, kh, kw, C), y: (N, H', W', O), t: (N, O) or none. Rows are pixels, a slab is 64 channels of one tap.
// Work: 2*N*H'*W'*O*kh*kw*C flop.  Bytes: every operand once from HBM; x again for each tap from L2.
// SDXL 320 -> 320 at 128x128, N=2: 60 GFLOP, 44 MB: 0.080 ms at 756 TF, 0.010 ms at 4.3 TB/s -> matrix-bound.
// Tile: 256x160 and 256x128 (4 slabs of 64), 128x160 (5); clusters of 2 along the pixels share the weights by
//   multicast; 384 threads, 40 / 232 registers, 197-225 KiB, 1 block/SM, persistent.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of a sum are joined in order inside the kernel.
// Requires: C % 64 == 0, O % 8 == 0, 16-byte aligned operands; stride 2: an even image; upsampling (a launch
//   for each parity of the output): an even output; at most 36 taps. Edges are the tensor maps'.
#include "conv2d/taps_sm90.cuh"

namespace conv2d {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Forward>;
using Tile256x128 = gemm::Tile<256, 128, 4, Layout::Forward>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Forward>;

}  // namespace conv2d

EXPORT(conv2d_forward_sm90_256x160_bf16, conv2d::Tile256x160, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile256x160>))
EXPORT(conv2d_forward_sm90_256x160_f16, conv2d::Tile256x160, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile256x160>))
EXPORT(conv2d_forward_sm90_256x128_bf16, conv2d::Tile256x128, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile256x128>))
EXPORT(conv2d_forward_sm90_256x128_f16, conv2d::Tile256x128, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile256x128>))
EXPORT(conv2d_forward_sm90_128x160_bf16, conv2d::Tile128x160, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile128x160>))
EXPORT(conv2d_forward_sm90_128x160_f16, conv2d::Tile128x160, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile128x160>))
