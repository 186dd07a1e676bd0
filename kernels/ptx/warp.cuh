// One warp: shuffles and votes over all 32 lanes.
#pragma once
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

// One lane of a converged warp, always the same: elect.sync where the chip has it.
__device__ inline bool elect_one() { return (threadIdx.x & 31) == 0; }

}  // namespace ptx
