// convolution data gradient, bf16 f16, Hopper.   dx[q, c] (+)= sum_{tap, o} dy[q - tap, o] w[o, tap, c]
//   dy: (N, H', W', O), w: (O, kh, kw, C) as it lies (MN-major, no transposed copy), dx: (N, H, W, C).
// Work: 2*N*H'*W'*O*kh*kw*C flop, also for stride 2: a launch for each parity of the pixels, with the taps
//   that meet it.  Bytes: every operand once from HBM; dy again for each tap from L2.
// SDXL 320 -> 320 at 128x128, N=2: 60 GFLOP, 44 MB: 0.080 ms at 756 TF, 0.010 ms at 4.3 TB/s -> matrix-bound.
// Tile: 256x160 and 256x128 (4 slabs of 64), 128x160 (5); clusters of 2 along the pixels share the weights by
//   multicast; 384 threads, 40 / 232 registers, 197-225 KiB, 1 block/SM, persistent.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of a sum are joined in order inside the kernel.
// Requires: O % 64 == 0, C % 8 == 0, 16-byte aligned operands; stride 2: an even image, a kernel of 2 and
//   more; upsampling: an even output; at most 36 taps over the copies of a pixel. Edges are the tensor maps'.
#include "conv2d/taps_sm90.cuh"

namespace conv2d {

using gemm::Layout;
using Tile256x160 = gemm::Tile<256, 160, 4, Layout::Input>;
using Tile256x128 = gemm::Tile<256, 128, 4, Layout::Input>;
using Tile128x160 = gemm::Tile<128, 160, 5, Layout::Input>;

}  // namespace conv2d

EXPORT(conv2d_data_sm90_256x160_bf16, conv2d::Tile256x160, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile256x160>))
EXPORT(conv2d_data_sm90_256x160_f16, conv2d::Tile256x160, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile256x160>))
EXPORT(conv2d_data_sm90_256x128_bf16, conv2d::Tile256x128, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile256x128>))
EXPORT(conv2d_data_sm90_256x128_f16, conv2d::Tile256x128, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile256x128>))
EXPORT(conv2d_data_sm90_128x160_bf16, conv2d::Tile128x160, conv2d::TapArgs<bf16>,
       (conv2d::gathered<bf16, conv2d::Tile128x160>))
EXPORT(conv2d_data_sm90_128x160_f16, conv2d::Tile128x160, conv2d::TapArgs<f16>,
       (conv2d::gathered<f16, conv2d::Tile128x160>))
