// Sums over the lanes of a warp: five exchanges, every lane gets the same bits.
#pragma once
#include "ptx/warp.cuh"

template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += ptx::shfl_xor(x, mask);
  return x;
}
