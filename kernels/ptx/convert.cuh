// Numbers: two f32 to a packed pair of bf16 or f16 and back, and the approximate functions.
#pragma once
#include <stdint.h>

#include "common/export.cuh"
#ifdef __CUDACC__
#include <cuda_fp16.h>
#else
#include "emulator/number.h"
#endif

struct bf16;  // kernels/common/element.cuh
struct f16;

namespace ptx {

template <class A, class B>
inline constexpr bool Same = false;
template <class A>
inline constexpr bool Same<A, A> = true;

#ifdef __CUDACC__
// lo in bits 0-15; to nearest, ties to even.
__device__ inline uint32_t pack_bf16x2(float lo, float hi) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}
__device__ inline uint32_t pack_f16x2(float lo, float hi) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
  return d;
}
__device__ inline float2 unpack_f16x2(uint32_t v) {
  float2 f;
  asm("{\n.reg .b16 lo, hi;\nmov.b32 {lo, hi}, %2;\ncvt.f32.f16 %0, lo;\ncvt.f32.f16 %1, hi;\n}"
      : "=f"(f.x), "=f"(f.y)
      : "r"(v));
  return f;
}
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float tanh_approx(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// f32 to tf32, to nearest; what mma.m16n8k8.tf32 reads.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}
#else
inline uint32_t pack_bf16x2(float lo, float hi) {
  return emulator::bf16_of_f32(lo) | uint32_t(emulator::bf16_of_f32(hi)) << 16;
}
inline uint32_t pack_f16x2(float lo, float hi) {
  return emulator::f16_of_f32(lo) | uint32_t(emulator::f16_of_f32(hi)) << 16;
}
inline float2 unpack_f16x2(uint32_t v) {
  return {emulator::f32_of_f16(uint16_t(v)), emulator::f32_of_f16(uint16_t(v >> 16))};
}
inline float exp2_approx(float x) { return ::exp2f(x); }
inline float log2_approx(float x) { return ::log2f(x); }
inline float rcp_approx(float x) { return 1.0f / x; }
inline float rsqrt_approx(float x) { return rsqrtf(x); }
inline float tanh_approx(float x) { return ::tanhf(x); }
inline uint32_t to_tf32(float x) { return (__float_as_uint(x) + 0x1000u) & 0xFFFFE000u; }
#endif

__device__ inline float2 unpack_bf16x2(uint32_t v) {
  return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xFFFF0000u));
}

template <class T>
__device__ inline uint32_t pack(float lo, float hi) {
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  if constexpr (Same<T, bf16>) return pack_bf16x2(lo, hi);
  else return pack_f16x2(lo, hi);
}
template <class T>
__device__ inline float2 unpack(uint32_t v) {
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  if constexpr (Same<T, bf16>) return unpack_bf16x2(v);
  else return unpack_f16x2(v);
}
template <class T>
__device__ inline void unpack(uint32_t v, float& lo, float& hi) {
  const float2 f = unpack<T>(v);
  lo = f.x, hi = f.y;
}

}  // namespace ptx
