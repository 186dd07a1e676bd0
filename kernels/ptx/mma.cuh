// mma.sync: D (16, 8) += A (16, K) B (K, 8) by one warp, f32 accumulators.
// Lane l, q = l / 4, t = l % 4. D: (q, 2t), (q, 2t+1), (q+8, 2t), (q+8, 2t+1).
// K = 16: a[i] holds (q + 8 (i & 1), 2t + 8 (i >> 1)) and its right neighbour,
//         b[i] holds (2t + 8 i, q) and the one below.
// K = 8:  a[i] holds (q + 8 (i & 1), t + 4 (i >> 1)), b[i] holds (t + 4 i, q).
#pragma once
#include <stdint.h>

#include "ptx/convert.cuh"
#ifndef __CUDACC__
#include "emulator/models.h"
#endif

namespace ptx {
#ifdef __CUDACC__
template <class T>
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  if constexpr (Same<T, bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Operands are f32 bits of which the low 13 are not read; round them with to_tf32.
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
template <class T>
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         int line = __builtin_LINE()) {
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  constexpr auto number = Same<T, bf16> ? emulator::Number::Bf16 : emulator::Number::F16;
  emulator::mma_m16n8k16(number, d, a, b, line);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             int line = __builtin_LINE()) {
  emulator::mma_m16n8k8_tf32(d, a, b, line);
}
#endif
}  // namespace ptx
