// Weighted sums of squares in two stages: a double a block of a sample, then one block adds them in order.
#pragma once
#include "common/block_sum.cuh"
#include "common/elementwise.cuh"

namespace loss {

using namespace elementwise;

// The host picks the blocks of a sample (cuda.rs); their totals are added up by one block.
struct SumTile {
  static constexpr int Threads = 256;
  static constexpr int BlockRows = 1, BlockCols = Threads * 4, Stages = 1;
  static constexpr int SharedBytes = Threads * 8, BlocksPerSm = 4;
};

using Sums = BlockSum<SumTile::Threads>;

// What each count in a mean over `each` elements.
__device__ inline double share(Count each) { return 1.0 / double(each ? each : 1); }

// The sum of body.operator()<Vec>(first) over the elements of [0, each) that this thread owns; gridDim.x
// blocks share a sample in equal parts.
template <class Body>
__device__ inline double sum_own(Count each, bool whole, const Body& body) {
  const Count part = (each + gridDim.x * 4ull - 1) / (gridDim.x * 4ull) * 4;
  const Count end = (blockIdx.x + 1) * part < each ? (blockIdx.x + 1) * part : each;
  double sum = 0.0;
  for (Count first = blockIdx.x * part + threadIdx.x * 4u; first < end; first += SumTile::BlockCols) {
    if (whole && first + 4 <= end) {
      sum += body.template operator()<4>(first);
    } else {
      for (int k = 0; k < 4; ++k)
        if (first + k < end) sum += body.template operator()<1>(first + k);
    }
  }
  return sum;
}

// partial[0 .. n) of one sample, added up by the whole block in a fixed order.
__device__ inline double total_of(Sums& s, const double* partial, unsigned n) {
  double sum = 0.0;
  for (unsigned i = threadIdx.x; i < n; i += SumTile::Threads) sum += partial[i];
  return block_sum<SumTile::Threads>(s, sum);
}

}  // namespace loss
