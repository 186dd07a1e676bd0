// CUDA's arithmetic functions. Compiled with -ffp-contract=off: every operation rounds once.
#pragma once
#include <cmath>
#include <cstdint>

// glibc declares (and does not define) these names itself, so they cannot be functions here.
#define rsqrtf(x) emulator::rsqrt(x)
#define __expf(x) ::expf(x)
#define __exp10f(x) emulator::exp10_(x)
#define __logf(x) ::logf(x)
#define __log2f(x) ::log2f(x)
#define __log10f(x) ::log10f(x)
#define __sinf(x) ::sinf(x)
#define __cosf(x) ::cosf(x)
#define __tanf(x) ::tanf(x)
#define __powf(x, y) ::powf(x, y)
#define __tanhf(x) ::tanhf(x)

namespace emulator {
inline float rsqrt(float a) { return float(1.0 / __builtin_sqrt(double(a))); }
inline float exp10_(float a) { return ::powf(10.0f, a); }
template <class To, class From>
inline To bits(From a) { return __builtin_bit_cast(To, a); }
}  // namespace emulator

constexpr int warpSize = 32;

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __frsqrt_rn(float a) { return emulator::rsqrt(a); }
inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }

inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }
inline float __ll2float_rn(long long a) { return float(a); }
inline float __ull2float_rn(unsigned long long a) { return float(a); }
inline int __float2int_rz(float a) { return int(a); }
inline int __float2int_rn(float a) { return int(__builtin_rintf(a)); }
inline int __float2int_rd(float a) { return int(__builtin_floorf(a)); }
inline int __float2int_ru(float a) { return int(__builtin_ceilf(a)); }
inline unsigned __float2uint_rz(float a) { return a > 0.0f ? unsigned(a) : 0; }
inline unsigned __float2uint_rn(float a) { return __float2uint_rz(__builtin_rintf(a)); }
inline unsigned __float_as_uint(float a) { return emulator::bits<unsigned>(a); }
inline int __float_as_int(float a) { return emulator::bits<int>(a); }
inline float __uint_as_float(unsigned a) { return emulator::bits<float>(a); }
inline float __int_as_float(int a) { return emulator::bits<float>(a); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline int __mulhi(int a, int b) { return int((int64_t(a) * b) >> 32); }
inline int __clz(int a) { return a ? __builtin_clz(unsigned(a)) : 32; }
inline int __clzll(long long a) { return a ? __builtin_clzll((unsigned long long)a) : 64; }
inline int __popc(unsigned a) { return __builtin_popcount(a); }
inline int __ffs(int a) { return __builtin_ffs(a); }
inline unsigned __brev(unsigned a) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (a >> i & 1) << (31 - i);
  return r;
}
// Bytes of (b, a) chosen by the four selectors of `s`.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= unsigned(both >> (s >> (4 * i) & 7) * 8 & 0xFF) << (8 * i);
  return r;
}

#define EMULATED_MIN_MAX(T)                          \
  inline T min(T a, T b) { return a < b ? a : b; }   \
  inline T max(T a, T b) { return a > b ? a : b; }
EMULATED_MIN_MAX(int)
EMULATED_MIN_MAX(unsigned)
EMULATED_MIN_MAX(long)
EMULATED_MIN_MAX(unsigned long)
EMULATED_MIN_MAX(long long)
EMULATED_MIN_MAX(unsigned long long)
#undef EMULATED_MIN_MAX
inline float min(float a, float b) { return ::fminf(a, b); }
inline float max(float a, float b) { return ::fmaxf(a, b); }
