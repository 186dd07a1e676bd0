// matrix products, f32, bf16, f16, any chip.   out = alpha (left right + t l) + bias (+ residual) (+ out)
// Forward y (M,N) = x (M,K) w (N,K)^T; Input dx = dy w; Weight dw = dy^T x; t, l: a low-rank adapter as more K-steps.
// Work: 2 M N (K + rank) flop.  Bytes: sizeof(T) (M K + N K + M N) once, operands again from L2 every 64 rows or columns.
// SDXL f32 4096 x 640 x 640: 3.4 GFLOP, 23 MB -> 0.06 ms at 60 TFLOP/s of f32 FMA: bound by the multipliers.
// Tile: 64 x 64, slabs of 16, 64 threads of 8 x 8 results, 8.5 KiB shared; K in ranges (gridDim.z) where tiles are few.
// Measured: see NOTES.md.   Determinism: bitwise; ranges are added in order by linear_reduce.   Requires: nothing, ragged edges masked.
#include "gemm/simt.cuh"

EXPORT(linear_forward_simt_f32, gemm::SimtTile, gemm::ProductArgs<float>,
       (gemm::simt_product<float, gemm::Pass::Forward>))
EXPORT(linear_forward_simt_bf16, gemm::SimtTile, gemm::ProductArgs<bf16>,
       (gemm::simt_product<bf16, gemm::Pass::Forward>))
EXPORT(linear_forward_simt_f16, gemm::SimtTile, gemm::ProductArgs<f16>,
       (gemm::simt_product<f16, gemm::Pass::Forward>))
EXPORT(linear_input_simt_f32, gemm::SimtTile, gemm::ProductArgs<float>,
       (gemm::simt_product<float, gemm::Pass::Input>))
EXPORT(linear_input_simt_bf16, gemm::SimtTile, gemm::ProductArgs<bf16>,
       (gemm::simt_product<bf16, gemm::Pass::Input>))
EXPORT(linear_input_simt_f16, gemm::SimtTile, gemm::ProductArgs<f16>,
       (gemm::simt_product<f16, gemm::Pass::Input>))
EXPORT(linear_weight_simt_f32, gemm::SimtTile, gemm::ProductArgs<float>,
       (gemm::simt_product<float, gemm::Pass::Weight>))
EXPORT(linear_weight_simt_bf16, gemm::SimtTile, gemm::ProductArgs<bf16>,
       (gemm::simt_product<bf16, gemm::Pass::Weight>))
EXPORT(linear_weight_simt_f16, gemm::SimtTile, gemm::ProductArgs<f16>,
       (gemm::simt_product<f16, gemm::Pass::Weight>))
