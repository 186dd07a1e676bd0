// Global loads that do not stay in L1: ld.global.nc.L1::no_allocate.
#pragma once
#include "common/export.cuh"

namespace ptx {
#ifdef __CUDACC__
__device__ inline float load_once(const float* p) {
  float v;
  asm volatile("ld.global.nc.L1::no_allocate.f32 %0, [%1];" : "=f"(v) : "l"(p));
  return v;
}
__device__ inline float4 load_once_v4(const float* p) {
  float4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}
#else
inline float load_once(const float* p) { return *p; }
inline float4 load_once_v4(const float* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16) emulator::fail("ld.global.v4: misaligned address");
  return *reinterpret_cast<const float4*>(p);
}
#endif
}  // namespace ptx
