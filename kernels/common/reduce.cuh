// Sums over a warp or a block in a fixed order.
#pragma once
#include "ptx/warp.cuh"

// Five exchanges; every lane gets the same bits.
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += ptx::shfl_xor(x, mask);
  return x;
}

// All threads of the block must call it and get the sum.
template <int Threads>
__device__ inline double block_sum(double (&sums)[Threads], double x) {
  const int tid = int(threadIdx.x);
  __syncthreads();  // an earlier sum may still be read
  sums[tid] = x;
  for (int n = Threads / 2; n > 0; n /= 2) {
    __syncthreads();
    if (tid < n) sums[tid] += sums[tid + n];
  }
  __syncthreads();
  return sums[0];
}
