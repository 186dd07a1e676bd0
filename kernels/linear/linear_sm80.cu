// matrix products, bf16 and f16, tensor cores of Ampere and later.   out = alpha (left right + t l) + bias (+ residual) (+ out)
// Forward y (M,N) = x (M,K) w (N,K)^T; Input dx = dy w; Weight dw = dy^T x; t, l: a low-rank adapter as more K-steps.
// Work: 2 M N (K + rank) flop.  Bytes: 2 (M K + N K + M N) once, operands again from L2 every 128 (64) rows or columns.
// SDXL 4096 x 1280 x 1280: 13.4 GFLOP, 24 MB -> 0.06 ms at 220 TFLOP/s of an A100, 0.03 ms at 400 on an H200: bound by the multipliers.
// Tile: 128 x 128 (8 warps of 64 x 32, 64 KiB, 2 blocks/SM) or 64 x 64 (4 warps of 32 x 32, 32 KiB, 4 blocks/SM), slabs of 32, 4 stages.
// Measured: see NOTES.md.   Determinism: bitwise; ranges of K (gridDim.z) are added in order by linear_reduce.
// Requires: K, N (and M for Weight), rank % 8 == 0; 16-byte aligned operands; ragged edges beyond that are masked.
#include "gemm/mma_sm80.cuh"

EXPORT(linear_forward_sm80_128_bf16, gemm::MmaLarge, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Forward, gemm::MmaLarge>))
EXPORT(linear_forward_sm80_128_f16, gemm::MmaLarge, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Forward, gemm::MmaLarge>))
EXPORT(linear_forward_sm80_64_bf16, gemm::MmaSmall, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Forward, gemm::MmaSmall>))
EXPORT(linear_forward_sm80_64_f16, gemm::MmaSmall, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Forward, gemm::MmaSmall>))
EXPORT(linear_input_sm80_128_bf16, gemm::MmaLarge, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Input, gemm::MmaLarge>))
EXPORT(linear_input_sm80_128_f16, gemm::MmaLarge, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Input, gemm::MmaLarge>))
EXPORT(linear_input_sm80_64_bf16, gemm::MmaSmall, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Input, gemm::MmaSmall>))
EXPORT(linear_input_sm80_64_f16, gemm::MmaSmall, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Input, gemm::MmaSmall>))
EXPORT(linear_weight_sm80_128_bf16, gemm::MmaLarge, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Weight, gemm::MmaLarge>))
EXPORT(linear_weight_sm80_128_f16, gemm::MmaLarge, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Weight, gemm::MmaLarge>))
EXPORT(linear_weight_sm80_64_bf16, gemm::MmaSmall, gemm::ProductArgs<bf16>,
       (gemm::mma_product<bf16, gemm::Pass::Weight, gemm::MmaSmall>))
EXPORT(linear_weight_sm80_64_f16, gemm::MmaSmall, gemm::ProductArgs<f16>,
       (gemm::mma_product<f16, gemm::Pass::Weight, gemm::MmaSmall>))
