// setmaxnreg: a warpgroup gives registers back or takes more; and what pins a value to its place
// while an asynchronous instruction owns its register.
#pragma once
#include <stdint.h>

#include "common/export.cuh"

namespace ptx {
#ifdef __CUDACC__
template <int R>
__device__ inline void setmaxnreg_inc() {
  static_assert(R % 8 == 0 && R >= 24 && R <= 256, "a multiple of 8 in 24..256");
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R));
}
template <int R>
__device__ inline void setmaxnreg_dec() {
  static_assert(R % 8 == 0 && R >= 24 && R <= 256, "a multiple of 8 in 24..256");
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R));
}
// No instruction: uses of the values are not moved across it.
template <int N>
__device__ inline void reg_fence(float (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}
template <int N>
__device__ inline void reg_fence(uint32_t (&r)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(r[i])::"memory");
}
#else
template <int R>
inline void setmaxnreg_inc() {
  static_assert(R % 8 == 0 && R >= 24 && R <= 256, "a multiple of 8 in 24..256");
}
template <int R>
inline void setmaxnreg_dec() {
  static_assert(R % 8 == 0 && R >= 24 && R <= 256, "a multiple of 8 in 24..256");
}
template <class T, int N>
inline void reg_fence(T (&r)[N]) {
  __asm__ volatile("" : : "r"(&r) : "memory");
}
#endif
template <class T, int M, int N>
__device__ inline void reg_fence(T (&r)[M][N]) {
#pragma unroll
  for (int i = 0; i < M; ++i) reg_fence(r[i]);
}
}  // namespace ptx
