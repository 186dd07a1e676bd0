// products with a narrow side (a low-rank adapter's), bf16 and f16, Hopper.
// project: h (M,r) = s x (M,K) a (r,K)^T, g (M,r) = s dy (M,N) up (N,r);  grad: da (r,K) = g^T x and dup (N,r) = dy^T h, sums over
//   M, both in one launch or either alone.
// Work: 2 M K r flop a product.  Bytes: 2 M K, one pass over the wide operand; partial sums stay on chip.
// SDXL 4096 x 1280, rank 32: 10.5 MB -> 0.003 ms at 3.5 TB/s, 0.34 GFLOP: bound by the wide operand and by launches (2 us).
// Tile: project 64 rows x 32, 64 or 128 columns, 128 threads, K over a cluster of 4 joined through distributed shared memory;
//   grad 128 wide columns x 32, 64 or 128, 288 threads, M over a cluster of 8; 3 or 4 slabs of 64 in flight, 59-131 KiB, 1-2
//   blocks/SM. A grad kernel AxB has A columns for its first product and B for its second, A alone for both.
// Measured: see NOTES.md.   Determinism: bitwise, sums in block order.
// Requires: rows of 16 bytes (K, N, rank % 8 == 0), rank <= 128; ragged extents are zero-filled by the tensor maps.
#include "gemm/skinny_sm90.cuh"

namespace linear {

using Forward32 = gemm::ProjectTile<32, false>;
using Input32 = gemm::ProjectTile<32, true>;
using Weight32 = gemm::GradTile<32, 32>;
using Forward64 = gemm::ProjectTile<64, false>;
using Input64 = gemm::ProjectTile<64, true>;
using Weight64 = gemm::GradTile<64, 64>;
using Forward128 = gemm::ProjectTile<128, false>;
using Input128 = gemm::ProjectTile<128, true>;
using Weight128 = gemm::GradTile<128, 128>;
using Weight64x32 = gemm::GradTile<64, 32>;
using Weight128x32 = gemm::GradTile<128, 32>;
using Weight128x64 = gemm::GradTile<128, 64>;

}  // namespace linear

EXPORT(linear_forward_sm90_skinny32_bf16, linear::Forward32, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Forward32>))
EXPORT(linear_forward_sm90_skinny32_f16, linear::Forward32, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Forward32>))
EXPORT(linear_forward_sm90_skinny64_bf16, linear::Forward64, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Forward64>))
EXPORT(linear_forward_sm90_skinny64_f16, linear::Forward64, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Forward64>))
EXPORT(linear_forward_sm90_skinny128_bf16, linear::Forward128, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Forward128>))
EXPORT(linear_forward_sm90_skinny128_f16, linear::Forward128, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Forward128>))
EXPORT(linear_input_sm90_skinny32_bf16, linear::Input32, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Input32>))
EXPORT(linear_input_sm90_skinny32_f16, linear::Input32, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Input32>))
EXPORT(linear_input_sm90_skinny64_bf16, linear::Input64, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Input64>))
EXPORT(linear_input_sm90_skinny64_f16, linear::Input64, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Input64>))
EXPORT(linear_input_sm90_skinny128_bf16, linear::Input128, gemm::ProjectArgs<bf16>,
       (gemm::project<bf16, linear::Input128>))
EXPORT(linear_input_sm90_skinny128_f16, linear::Input128, gemm::ProjectArgs<f16>,
       (gemm::project<f16, linear::Input128>))
EXPORT(linear_weight_sm90_skinny32_bf16, linear::Weight32, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight32>))
EXPORT(linear_weight_sm90_skinny32_f16, linear::Weight32, gemm::GradArgs, (gemm::grad<f16, linear::Weight32>))
EXPORT(linear_weight_sm90_skinny64_bf16, linear::Weight64, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight64>))
EXPORT(linear_weight_sm90_skinny64_f16, linear::Weight64, gemm::GradArgs, (gemm::grad<f16, linear::Weight64>))
EXPORT(linear_weight_sm90_skinny64x32_bf16, linear::Weight64x32, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight64x32>))
EXPORT(linear_weight_sm90_skinny64x32_f16, linear::Weight64x32, gemm::GradArgs,
       (gemm::grad<f16, linear::Weight64x32>))
EXPORT(linear_weight_sm90_skinny128_bf16, linear::Weight128, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight128>))
EXPORT(linear_weight_sm90_skinny128_f16, linear::Weight128, gemm::GradArgs,
       (gemm::grad<f16, linear::Weight128>))
EXPORT(linear_weight_sm90_skinny128x32_bf16, linear::Weight128x32, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight128x32>))
EXPORT(linear_weight_sm90_skinny128x32_f16, linear::Weight128x32, gemm::GradArgs,
       (gemm::grad<f16, linear::Weight128x32>))
EXPORT(linear_weight_sm90_skinny128x64_bf16, linear::Weight128x64, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight128x64>))
EXPORT(linear_weight_sm90_skinny128x64_f16, linear::Weight128x64, gemm::GradArgs,
       (gemm::grad<f16, linear::Weight128x64>))
