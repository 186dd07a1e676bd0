// f32 arithmetic that rounds once per operation, so that the CPU reference gives the same bits.
#pragma once
#include "common/export.cuh"

// nvcc contracts `a * b + c` to one fma; these spell out where a result is rounded.
namespace exact {
__device__ inline float add(float a, float b) { return __fadd_rn(a, b); }
__device__ inline float sub(float a, float b) { return __fsub_rn(a, b); }
__device__ inline float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float div(float a, float b) { return __fdiv_rn(a, b); }
__device__ inline float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline float sqrt(float a) { return __fsqrt_rn(a); }
}  // namespace exact
