// The sum of one double a thread over a block: a tree in shared memory, the same order on every run.
#pragma once
#include "common/shared.cuh"

// 53 bits: the sums of losses over a million elements are as exact as their terms.
template <int Threads>
struct BlockSum {
  double v[Threads];
};

// Every thread gets the total; the block may use `s` again at once.
template <int Threads>
__device__ inline double block_sum(BlockSum<Threads>& s, double x) {
  static_assert((Threads & (Threads - 1)) == 0, "the tree halves the block");
  s.v[threadIdx.x] = x;
  __syncthreads();
  for (int half = Threads / 2; half > 0; half /= 2) {
    if (int(threadIdx.x) < half) s.v[threadIdx.x] += s.v[threadIdx.x + half];
    __syncthreads();
  }
  const double total = s.v[0];
  __syncthreads();
  return total;
}
