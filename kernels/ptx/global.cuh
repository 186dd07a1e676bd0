// Global memory: loads that do not stay in L1, and flags between the blocks of one launch.
#pragma once
#include <stdint.h>

#include "common/export.cuh"
#ifndef __CUDACC__
#include "emulator/models.h"
#endif

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
// 16 bytes of any content.
__device__ inline uint4 load_once_b128(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ inline uint2 load_once_b64(const void* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.b32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
  return v;
}
__device__ inline uint32_t load_once_b32(const void* p) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
__device__ inline unsigned short load_once_b16(const void* p) {
  unsigned short v;
  asm volatile("ld.global.nc.L1::no_allocate.b16 %0, [%1];" : "=h"(v) : "l"(p));
  return v;
}
// From L2, where another block's stores of this launch are seen.
__device__ inline float4 load_l2_v4(const float* p) {
  float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p)
               : "memory");
  return v;
}
// What the storing block wrote before its release is visible after an acquire that sees its value.
__device__ inline unsigned load_acquire(const unsigned* p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
__device__ inline void store_release(unsigned* p, unsigned v) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
__device__ inline void store_relaxed(unsigned* p, unsigned v) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}
// The old value; releases what came before, acquires what the others released.
__device__ inline unsigned atomic_add_acq_rel(unsigned* p, unsigned v) {
  unsigned old;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(p), "r"(v)
               : "memory");
  return old;
}
#else
template <class T>
inline T load_aligned(const void* p, const char* what) {
  emulator::check_aligned(p, sizeof(T), what);
  return *static_cast<const T*>(p);
}
inline float load_once(const float* p) { return *p; }
inline float4 load_once_v4(const float* p) { return load_aligned<float4>(p, "ld.global.v4"); }
inline uint4 load_once_b128(const void* p) { return load_aligned<uint4>(p, "ld.global.v4"); }
inline uint2 load_once_b64(const void* p) { return load_aligned<uint2>(p, "ld.global.v2"); }
inline uint32_t load_once_b32(const void* p) { return load_aligned<uint32_t>(p, "ld.global"); }
inline unsigned short load_once_b16(const void* p) {
  return load_aligned<unsigned short>(p, "ld.global");
}
inline float4 load_l2_v4(const float* p) { return load_aligned<float4>(p, "ld.global.v4"); }
inline unsigned load_acquire(const unsigned* p) { return emulator::poll(p); }
inline void store_release(unsigned* p, unsigned v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
inline void store_relaxed(unsigned* p, unsigned v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
inline unsigned atomic_add_acq_rel(unsigned* p, unsigned v) {
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
#endif
}  // namespace ptx
