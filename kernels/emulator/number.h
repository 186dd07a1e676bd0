// bf16 and f16 as the tensor cores read and write them, on their bits.
#pragma once
#include <cstdint>

namespace emulator {

enum class Number { Bf16, F16 };

inline float f32_of_bf16(uint16_t b) { return __builtin_bit_cast(float, uint32_t(b) << 16); }

// To nearest, ties to even; every NaN becomes the canonical one.
inline uint16_t bf16_of_f32(float f) {
  const uint32_t u = __builtin_bit_cast(uint32_t, f);
  if ((u & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFF;
  return uint16_t((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

inline float f32_of_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, rest = uint32_t(h & 0x7FFF) << 13;
  if (rest >= 0x0F800000u) return __builtin_bit_cast(float, sign | rest | 0x7F800000u);  // inf, NaN
  // 2^112 moves the exponent from bias 15 to 127; subnormals become normal on the way.
  const float scaled = __builtin_bit_cast(float, rest) * __builtin_bit_cast(float, 0x77800000u);
  return __builtin_bit_cast(float, sign | __builtin_bit_cast(uint32_t, scaled));
}

// To nearest, ties to even; 65520 and above become infinite, every NaN the canonical one.
inline uint16_t f16_of_f32(float f) {
  const uint32_t u = __builtin_bit_cast(uint32_t, f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFFu;
  if (a > 0x7F800000u) return 0x7FFF;
  if (a >= 0x477FF000u) return uint16_t(sign | 0x7C00);
  if (a < 0x38800000u) {  // subnormal: the addition rounds at 2^-24
    const float half = __builtin_bit_cast(float, 0x3F000000u);
    const float sum = __builtin_bit_cast(float, a) + half;
    return uint16_t(sign | (__builtin_bit_cast(uint32_t, sum) - 0x3F000000u));
  }
  return uint16_t(sign | ((a - 0x38000000u + 0xFFFu + (a >> 13 & 1)) >> 13));
}

inline float f32_of(Number n, uint16_t b) {
  return n == Number::Bf16 ? f32_of_bf16(b) : f32_of_f16(b);
}
inline uint16_t of_f32(Number n, float f) {
  return n == Number::Bf16 ? bf16_of_f32(f) : f16_of_f32(f);
}

}  // namespace emulator
