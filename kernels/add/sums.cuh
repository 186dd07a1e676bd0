// Sums over the rows of each sample in two stages: partial sums of some rows a block, then their sum in order.
#pragma once
#include "common/row_sums.cuh"

namespace add {

using namespace elementwise;

template <class T>
struct SumArgs {
  const T* dy;         // (N, rows, cols)
  float* partial;      // (N, gridDim.y, cols)
  unsigned rows, cols;
  unsigned part_rows;  // a block sums
  unsigned unused;
};

// Grid: columns, parts of part_rows rows, samples.
template <class T>
__device__ inline void channel_sums(const SumArgs<T>& a) {
  const Count sample = Count(blockIdx.z) * a.rows;
  const unsigned first = blockIdx.y * a.part_rows, end = first + a.part_rows;
  const auto sum = row_sums::sum<T>({a.dy, a.cols}, sample + first, sample + (end < a.rows ? end : a.rows));
  if (sum.inside) a.partial[(Count(blockIdx.z) * gridDim.y + blockIdx.y) * a.cols + sum.col] = sum.value;
}

}  // namespace add
