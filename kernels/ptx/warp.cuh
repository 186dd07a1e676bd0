// One warp: shuffles and votes over all 32 lanes.
#pragma once
#include <stdint.h>

#include "common/export.cuh"

namespace ptx {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;

__device__ inline int lane_id() { return int(threadIdx.x & 31); }
__device__ inline int warp_id() { return int(threadIdx.x >> 5); }

template <class T>
__device__ inline T shfl_xor(T v, int mask) { return __shfl_xor_sync(kAllLanes, v, mask); }
// Tells ptxas that all lanes agree on v.
__device__ inline int warp_uniform(int v) { return __shfl_sync(kAllLanes, v, 0); }
__device__ inline bool vote_any(bool p) { return __any_sync(kAllLanes, p); }
__device__ inline bool vote_all(bool p) { return __all_sync(kAllLanes, p); }

// One lane of the warp, always the same one, which need not be lane 0; all 32 must come (sm_90). Directly under an `if`
// of it ptxas knows that one lane is active: bulk copies then need no loop over the lanes.
#ifdef __CUDACC__
__device__ inline bool elect_one() {
  uint32_t leads;
  asm volatile("{\n.reg .pred P;\nelect.sync _|P, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, P;\n}" : "=r"(leads));
  return leads != 0;
}
#else
inline bool elect_one(int line = __builtin_LINE()) { return emulator::elect_one(line); }
#endif
// One thread of the warp whose number in the block is `warp`; of the other warps none.
__device__ inline bool elect_of_warp(int warp) {
  return warp_uniform(warp_id()) == warp && elect_one();
}

}  // namespace ptx
