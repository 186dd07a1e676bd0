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
#else
inline uint32_t smem_address(const void* p) { return emulator::shared_address(p); }
#endif

// What wrappers take: a pointer into shared memory, or its address.
struct Smem {
  uint32_t address;
  __device__ inline Smem(uint32_t a) : address(a) {}
  __device__ inline Smem(const void* p) : address(smem_address(p)) {}
};

// 8 bytes.
__device__ inline float2 load_shared_v2(Smem from) {
  float2 v;
#ifdef __CUDACC__
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(from.address));
#else
  unsigned char* p = emulator::shared_pointer(from.address, 8, "ld.shared.v2");
  emulator::check_aligned(p, 8, "ld.shared.v2");
  v = *reinterpret_cast<float2*>(p);
#endif
  return v;
}

}  // namespace ptx
