// A bulk copy that adds: f32 values of shared memory to those of global memory, in the second-level cache. Who
// adds at the same place in which order is up to the kernel. In a bulk group, as ptx/tma.cuh's stores.
#pragma once
#include "ptx/shared.cuh"
#ifndef __CUDACC__
#include "emulator/models.h"
#endif

namespace ptx {

#ifdef __CUDACC__
__device__ inline void bulk_add(float* to, Smem from, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(from.address), "r"(bytes)
               : "memory");
}
#else
// Reads the old content at the issue; the sums, in the place of what was added, leave as a bulk store does.
inline void bulk_add(float* to, Smem from, uint32_t bytes) {
  auto* values = reinterpret_cast<float*>(emulator::shared_pointer(from.address, bytes, "cp.reduce.async.bulk"));
  emulator::check_aligned(to, 16, "cp.reduce.async.bulk");
  for (uint32_t i = 0; i < bytes / sizeof(float); ++i) values[i] += to[i];
  emulator::fence_proxy();
  emulator::bulk_store(to, from.address, bytes);
}
#endif

}  // namespace ptx
