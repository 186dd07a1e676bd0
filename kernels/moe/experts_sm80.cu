// a linear layer an expert, bf16 and f16, tensor cores of Ampere and later.   y[r] = w_e rows[r] + b_e for the rows of expert e;
// drows = dy w_e, dw_e = sum_r dy[r] rows[r]^T.   rows: (R, K), w: (E, N, K), b: (E, N), y: (R, N).
// Work: 2 R N K flop each.  Bytes: 2 (R K + E N K + R N).  Feature fusion R=1232, E=4, N=K=1024: 2.6 GFLOP, 13 MB -> 7 us.
// Tile: gemm/mma_sm80.cuh: 128 x 128 (8 warps) or 64 x 64 (4 warps); a block finds its expert from the offsets.   Measured: see NOTES.md.
// Determinism: bitwise, no atomics: a tile adds up all its rows.   Requires: N, K % 8 == 0, 16-byte aligned operands.
#include "gemm/mma_sm80.cuh"
#include "moe/experts.cuh"

namespace moe {

template <class T, gemm::Pass P, class Tile>
__device__ inline void mma(const ExpertArgs<T>& a) {
  const Group<T> g = group<T, P, Tile>(a);
  if (g.product.m > 0) gemm::mma_tile<T, P, Tile>(g.product, {g.row0, g.col0, 0});
}

}  // namespace moe

EXPORT(moe_forward_sm80_128_bf16, gemm::MmaLarge, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Forward, gemm::MmaLarge>))
EXPORT(moe_forward_sm80_128_f16, gemm::MmaLarge, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Forward, gemm::MmaLarge>))
EXPORT(moe_forward_sm80_64_bf16, gemm::MmaSmall, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Forward, gemm::MmaSmall>))
EXPORT(moe_forward_sm80_64_f16, gemm::MmaSmall, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Forward, gemm::MmaSmall>))
EXPORT(moe_rows_sm80_128_bf16, gemm::MmaLarge, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Input, gemm::MmaLarge>))
EXPORT(moe_rows_sm80_128_f16, gemm::MmaLarge, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Input, gemm::MmaLarge>))
EXPORT(moe_rows_sm80_64_bf16, gemm::MmaSmall, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Input, gemm::MmaSmall>))
EXPORT(moe_rows_sm80_64_f16, gemm::MmaSmall, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Input, gemm::MmaSmall>))
EXPORT(moe_weight_sm80_128_bf16, gemm::MmaLarge, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Weight, gemm::MmaLarge>))
EXPORT(moe_weight_sm80_128_f16, gemm::MmaLarge, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Weight, gemm::MmaLarge>))
EXPORT(moe_weight_sm80_64_bf16, gemm::MmaSmall, moe::ExpertArgs<bf16>, (moe::mma<bf16, gemm::Pass::Weight, gemm::MmaSmall>))
EXPORT(moe_weight_sm80_64_f16, gemm::MmaSmall, moe::ExpertArgs<f16>, (moe::mma<f16, gemm::Pass::Weight, gemm::MmaSmall>))
