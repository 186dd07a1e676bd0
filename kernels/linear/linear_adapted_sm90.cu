// Layers with a low-rank adapter in one launch, bf16 and f16, Hopper: h is made by the first units, its product by each tile's last slabs.
// forward: h (M,r) = s x a^T, y = x w^T + h up^T + b (+ residual).   input: g (M,r) = s dy up, dx = dy w + g a.   joined: of up to 8 layers.
// x (M,K), a (r,K), up (N,r), w (N,K), dy (M,N); joined as in linear_joined_sm90.cu.
// Work: 2 M (N K + r K + r N) flop.  Bytes: those of the layer, h once; x is read again through L2 (2 M K).
// SDXL 4096 x 1280 x 1280, rank 32: 14 GFLOP, 25 MB -> 0.019 ms at 726 TFLOP/s; h in a launch of its own is 5 us more.
// Tile: 256x160 and 128x160, clusters of 2; 384 threads, 40 / 232 registers, 4-5 slabs, 1 block/SM, persistent; h: 128 rows x 32 to 128.
// Measured: see lora_linear/NOTES.md.   Determinism: bitwise; ranges of K are joined in order inside the kernel.
// Requires: K, N, r % 8 == 0, 16-byte aligned operands, r <= 128 (forward: of all parts together); ragged edges are zero-filled.
#include "gemm/adapted_sm90.cuh"

namespace linear {

using gemm::Layout;
using Adapted256x160 = gemm::Tile<256, 160, 4, Layout::Forward>;
using Adapted128x160 = gemm::Tile<128, 160, 5, Layout::Forward>;
using AdaptedInput256x160 = gemm::Tile<256, 160, 4, Layout::Input>;
using AdaptedInput128x160 = gemm::Tile<128, 160, 5, Layout::Input>;

}  // namespace linear

EXPORT(linear_adapted_forward_sm90_256x160_bf16, linear::Adapted256x160, gemm::AdaptedArgs<bf16>,
       (gemm::adapted_product<bf16, linear::Adapted256x160>))
EXPORT(linear_adapted_forward_sm90_256x160_f16, linear::Adapted256x160, gemm::AdaptedArgs<f16>,
       (gemm::adapted_product<f16, linear::Adapted256x160>))
EXPORT(linear_adapted_forward_sm90_128x160_bf16, linear::Adapted128x160, gemm::AdaptedArgs<bf16>,
       (gemm::adapted_product<bf16, linear::Adapted128x160>))
EXPORT(linear_adapted_forward_sm90_128x160_f16, linear::Adapted128x160, gemm::AdaptedArgs<f16>,
       (gemm::adapted_product<f16, linear::Adapted128x160>))
EXPORT(linear_adapted_input_sm90_256x160_bf16, linear::AdaptedInput256x160, gemm::AdaptedArgs<bf16>,
       (gemm::adapted_product<bf16, linear::AdaptedInput256x160>))
EXPORT(linear_adapted_input_sm90_256x160_f16, linear::AdaptedInput256x160, gemm::AdaptedArgs<f16>,
       (gemm::adapted_product<f16, linear::AdaptedInput256x160>))
EXPORT(linear_adapted_input_sm90_128x160_bf16, linear::AdaptedInput128x160, gemm::AdaptedArgs<bf16>,
       (gemm::adapted_product<bf16, linear::AdaptedInput128x160>))
EXPORT(linear_adapted_input_sm90_128x160_f16, linear::AdaptedInput128x160, gemm::AdaptedArgs<f16>,
       (gemm::adapted_product<f16, linear::AdaptedInput128x160>))
EXPORT(linear_adapted_joined_sm90_256x160_bf16, linear::Adapted256x160, gemm::AdaptedJoinedArgs<bf16>,
       (gemm::adapted_joined<bf16, linear::Adapted256x160>))
EXPORT(linear_adapted_joined_sm90_256x160_f16, linear::Adapted256x160, gemm::AdaptedJoinedArgs<f16>,
       (gemm::adapted_joined<f16, linear::Adapted256x160>))
EXPORT(linear_adapted_joined_sm90_128x160_bf16, linear::Adapted128x160, gemm::AdaptedJoinedArgs<bf16>,
       (gemm::adapted_joined<bf16, linear::Adapted128x160>))
EXPORT(linear_adapted_joined_sm90_128x160_f16, linear::Adapted128x160, gemm::AdaptedJoinedArgs<f16>,
       (gemm::adapted_joined<f16, linear::Adapted128x160>))
EXPORT(linear_adapted_joined_input_sm90_256x160_bf16, linear::AdaptedInput256x160, gemm::AdaptedJoinedInputArgs<bf16>,
       (gemm::adapted_joined_input<bf16, linear::AdaptedInput256x160>))
EXPORT(linear_adapted_joined_input_sm90_256x160_f16, linear::AdaptedInput256x160, gemm::AdaptedJoinedInputArgs<f16>,
       (gemm::adapted_joined_input<f16, linear::AdaptedInput256x160>))
EXPORT(linear_adapted_joined_input_sm90_128x160_bf16, linear::AdaptedInput128x160, gemm::AdaptedJoinedInputArgs<bf16>,
       (gemm::adapted_joined_input<bf16, linear::AdaptedInput128x160>))
EXPORT(linear_adapted_joined_input_sm90_128x160_f16, linear::AdaptedInput128x160, gemm::AdaptedJoinedInputArgs<f16>,
       (gemm::adapted_joined_input<f16, linear::AdaptedInput128x160>))
