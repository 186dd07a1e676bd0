// Addresses in shared memory, as 32-bit numbers.
#pragma once
#include <stdint.h>

#include "common/export.cuh"
#ifndef __CUDACC__
#include "emulator/models.h"
#endif

namespace ptx {
#ifdef __CUDACC__
__device__ inline uint32_t smem_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}
// 8 bytes at a shared address.
__device__ inline float2 load_shared_v2(uint32_t address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
  return v;
}
#else
inline uint32_t smem_address(const void* p) { return emulator::shared_address(p); }
inline float2 load_shared_v2(uint32_t address) {
  unsigned char* p = emulator::shared_pointer(address, 8, "ld.shared.v2");
  emulator::check_aligned(p, 8, "ld.shared.v2");
  return *reinterpret_cast<float2*>(p);
}
#endif
}  // namespace ptx
