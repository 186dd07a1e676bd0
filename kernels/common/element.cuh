// Storage types of 16 bits and their conversion: values are stored as T and computed with as float.
#pragma once
#include "common/export.cuh"

struct bf16 {
  unsigned short bits;  // the high half of a float
};
struct f16 {
  unsigned short bits;  // IEEE binary16
};

__device__ inline float to_f32(float x) { return x; }
__device__ inline float to_f32(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
__device__ inline unsigned short bf16_bits(float x) {
  const unsigned u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return (unsigned short)((u >> 16) | 0x40u);  // quiet NaN
  return (unsigned short)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

#ifdef __CUDACC__
#include <cuda_fp16.h>
__device__ inline float to_f32(f16 x) { return __half2float(__ushort_as_half(x.bits)); }
__device__ inline unsigned short f16_bits(float x) { return __half_as_ushort(__float2half_rn(x)); }
#else
inline float to_f32(f16 x) {
  const unsigned sign = unsigned(x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // 2^112 moves the exponent from the half's bias to the float's; subnormals come out right too.
  const float magnitude = __uint_as_float(rest << 13) * 5.192296858534828e33f;
  return __uint_as_float(sign | __float_as_uint(magnitude));
}
inline unsigned short f16_bits(float x) {
  const unsigned u = __float_as_uint(x), sign = (u >> 16) & 0x8000u, rest = u & 0x7fffffffu;
  if (rest > 0x7f800000u) return (unsigned short)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
  if (rest >= 0x477ff000u) return (unsigned short)(sign | 0x7c00u);  // 65520 and more: infinity
  if (rest < 0x38800000u) {  // subnormal: an addition rounds at 2^-24, ties to even
    const float sum = __uint_as_float(rest) + 0.5f;
    return (unsigned short)(sign | (__float_as_uint(sum) - 0x3f000000u));
  }
  const unsigned odd = (rest >> 13) & 1u;
  return (unsigned short)(sign | ((rest - 0x38000000u + 0xfffu + odd) >> 13));
}
#endif

template <class T>
__device__ inline T from_f32(float x) {
  if constexpr (sizeof(T) == 4) {
    return x;
  } else if constexpr (__is_same(T, bf16)) {
    return T{bf16_bits(x)};
  } else {
    return T{f16_bits(x)};
  }
}
