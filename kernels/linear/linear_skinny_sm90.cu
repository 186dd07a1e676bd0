// products with a narrow side (a low-rank adapter's), bf16 and f16, Hopper.
// project: h (M,r) = s x (M,K) a (r,K)^T, g (M,r) = s dy (M,N) up (N,r);  grad: da (r,K) = g^T x, dup (N,r) = dy^T h, sums over M.
// Work: 2 M K r flop.  Bytes: 2 M K, one pass over the wide operand; grad also 8 splits K r of partial sums in L2.
// SDXL 4096 x 1280, rank 32: 10.5 MB -> 0.003 ms at 3.5 TB/s, 0.34 GFLOP: bound by the wide operand and by launches (2 us).
// Tile: project 64 rows x 32, 64 or 128 columns, 128 threads, K over a cluster of 4 joined through distributed shared memory;
//   grad 128 wide columns x 32, 64 or 128, 288 threads; 4 slabs of 64 in flight, 60-145 KiB, 1-2 blocks/SM.
// Measured: see NOTES.md.   Determinism: bitwise, sums in block and range order.
// Requires: rows of 16 bytes (K, N, rank % 8 == 0), rank <= 128; ragged extents are zero-filled by the tensor maps.
#include "gemm/skinny_sm90.cuh"

namespace linear {

using Forward32 = gemm::ProjectTile<32, false>;
using Input32 = gemm::ProjectTile<32, true>;
using Weight32 = gemm::GradTile<32, false>;
using WeightT32 = gemm::GradTile<32, true>;
using Forward64 = gemm::ProjectTile<64, false>;
using Input64 = gemm::ProjectTile<64, true>;
using Weight64 = gemm::GradTile<64, false>;
using WeightT64 = gemm::GradTile<64, true>;
using Forward128 = gemm::ProjectTile<128, false>;
using Input128 = gemm::ProjectTile<128, true>;
using Weight128 = gemm::GradTile<128, false>;
using WeightT128 = gemm::GradTile<128, true>;

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
EXPORT(linear_weight_sm90_skinny128_bf16, linear::Weight128, gemm::GradArgs,
       (gemm::grad<bf16, linear::Weight128>))
EXPORT(linear_weight_sm90_skinny128_f16, linear::Weight128, gemm::GradArgs,
       (gemm::grad<f16, linear::Weight128>))
EXPORT(linear_weight_t_sm90_skinny32_bf16, linear::WeightT32, gemm::GradArgs,
       (gemm::grad<bf16, linear::WeightT32>))
EXPORT(linear_weight_t_sm90_skinny32_f16, linear::WeightT32, gemm::GradArgs,
       (gemm::grad<f16, linear::WeightT32>))
EXPORT(linear_weight_t_sm90_skinny64_bf16, linear::WeightT64, gemm::GradArgs,
       (gemm::grad<bf16, linear::WeightT64>))
EXPORT(linear_weight_t_sm90_skinny64_f16, linear::WeightT64, gemm::GradArgs,
       (gemm::grad<f16, linear::WeightT64>))
EXPORT(linear_weight_t_sm90_skinny128_bf16, linear::WeightT128, gemm::GradArgs,
       (gemm::grad<bf16, linear::WeightT128>))
EXPORT(linear_weight_t_sm90_skinny128_f16, linear::WeightT128, gemm::GradArgs,
       (gemm::grad<f16, linear::WeightT128>))
