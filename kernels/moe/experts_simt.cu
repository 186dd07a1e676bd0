// a linear layer an expert, f32 bf16 f16, any chip.   y[r] = w_e rows[r] + b_e for the rows of expert e; drows = dy w_e,
// dw_e = sum_r dy[r] rows[r]^T, db_e = sum_r dy[r].   rows: (R, K), w: (E, N, K), b: (E, N), y: (R, N).
// Work: 2 R N K flop each.  Bytes: sizeof(T) (R K + E N K + R N).  R=1232, N=K=1024 f32: 2.6 GFLOP -> 43 us at 60 TFLOP/s.
// Tile: gemm/simt.cuh: 64 x 64, 64 threads; a block finds its expert from the offsets.   Measured: see NOTES.md.
// Determinism: bitwise, no atomics: a tile adds up all its rows.   Requires: nothing, ragged edges masked.
#include "common/row_sums.cuh"
#include "gemm/simt.cuh"
#include "moe/experts.cuh"

namespace moe {

// Finding the expert takes registers: the 6 blocks of a plain product would spill.
struct ExpertSimtTile : gemm::SimtTile {
  static constexpr int BlocksPerSm = 4;
};

template <class T, gemm::Pass P>
__device__ inline void simt(const ExpertArgs<T>& a) {
  using Tile = ExpertSimtTile;
  constexpr bool LeftK = P != gemm::Pass::Weight, RightK = P == gemm::Pass::Forward;
  const Group<T> g = group<T, P, Tile>(a);
  const auto& p = g.product;
  if (p.m == 0) return;
  gemm::SimtSums c = {};
  gemm::add_slabs<LeftK, RightK, T>(c, shared_memory<gemm::SimtShared>(), {p.left, p.m, p.k}, {p.right, p.n, p.k},
                                    g.row0, g.col0, 0, (p.k + Tile::Depth - 1) / Tile::Depth);
  const int row = g.row0 + int(threadIdx.x) / 8 * Tile::ThreadM;
#pragma unroll
  for (int i = 0; i < Tile::ThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Tile::ThreadN; ++j) {
      const int col = g.col0 + gemm::column_of(j);
      if (row + i < p.m && col < p.n) gemm::finish(p, row + i, col, c.v[i][j]);
    }
}

template <class T>
struct BiasArgs {
  const T* dy;        // (R, N)
  T* target;          // (E, N)
  const int* offset;  // (E + 1)
  unsigned n;
  elementwise::Mode mode;
};

// Grid: columns, experts.
template <class T>
__device__ inline void bias(const BiasArgs<T>& a) {
  const unsigned first = unsigned(a.offset[blockIdx.y]), last = unsigned(a.offset[blockIdx.y + 1]);
  const auto sum = row_sums::sum<T>({a.dy, a.n}, first, last);
  if (sum.inside)
    elementwise::write<T, 1>(a.target + elementwise::Count(blockIdx.y) * a.n + sum.col, {{sum.value}}, a.mode);
}

}  // namespace moe

EXPORT(moe_forward_simt_f32, moe::ExpertSimtTile, moe::ExpertArgs<float>, (moe::simt<float, gemm::Pass::Forward>))
EXPORT(moe_forward_simt_bf16, moe::ExpertSimtTile, moe::ExpertArgs<bf16>, (moe::simt<bf16, gemm::Pass::Forward>))
EXPORT(moe_forward_simt_f16, moe::ExpertSimtTile, moe::ExpertArgs<f16>, (moe::simt<f16, gemm::Pass::Forward>))
EXPORT(moe_rows_simt_f32, moe::ExpertSimtTile, moe::ExpertArgs<float>, (moe::simt<float, gemm::Pass::Input>))
EXPORT(moe_rows_simt_bf16, moe::ExpertSimtTile, moe::ExpertArgs<bf16>, (moe::simt<bf16, gemm::Pass::Input>))
EXPORT(moe_rows_simt_f16, moe::ExpertSimtTile, moe::ExpertArgs<f16>, (moe::simt<f16, gemm::Pass::Input>))
EXPORT(moe_weight_simt_f32, moe::ExpertSimtTile, moe::ExpertArgs<float>, (moe::simt<float, gemm::Pass::Weight>))
EXPORT(moe_weight_simt_bf16, moe::ExpertSimtTile, moe::ExpertArgs<bf16>, (moe::simt<bf16, gemm::Pass::Weight>))
EXPORT(moe_weight_simt_f16, moe::ExpertSimtTile, moe::ExpertArgs<f16>, (moe::simt<f16, gemm::Pass::Weight>))
EXPORT(moe_bias_f32, row_sums::Tile<float>, moe::BiasArgs<float>, moe::bias<float>)
EXPORT(moe_bias_bf16, row_sums::Tile<bf16>, moe::BiasArgs<bf16>, moe::bias<bf16>)
EXPORT(moe_bias_f16, row_sums::Tile<f16>, moe::BiasArgs<f16>, moe::bias<f16>)
