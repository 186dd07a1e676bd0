// Philox 4x32-10 and Box-Muller normals: the twin of src/tensor/philox.rs, bit for bit.
#pragma once
#include "common/exact.cuh"

namespace philox {

// Ten rounds on `c` under `key` (Salmon et al. 2011).
__device__ inline uint4 rounds(uint4 c, uint2 key) {
  for (int round = 0; round < 10; ++round) {
    const unsigned a_hi = __umulhi(0xD2511F53u, c.x), a_lo = 0xD2511F53u * c.x;
    const unsigned b_hi = __umulhi(0xCD9E8D57u, c.z), b_lo = 0xCD9E8D57u * c.z;
    c = make_uint4(b_hi ^ c.y ^ key.x, b_lo, a_hi ^ c.w ^ key.y, a_lo);
    key = make_uint2(key.x + 0x9E3779B9u, key.y + 0xBB67AE85u);
  }
  return c;
}

// ln of x in (0, 1]: x = m 2^e with m in [sqrt 1/2, sqrt 2), then the atanh series.
__device__ inline float ln(float x) {
  const unsigned shifted = __float_as_uint(x) - 0x3F3504F3u;
  const int exponent = int(shifted) >> 23;
  const float f = exact::sub(__uint_as_float((shifted & 0x007FFFFFu) + 0x3F3504F3u), 1.0f);
  const float s = exact::div(f, exact::add(2.0f, f));
  const float z = exact::mul(s, s);
  float p = exact::fma(z, 2.0f / 9.0f, 2.0f / 7.0f);
  p = exact::fma(z, p, 2.0f / 5.0f);
  p = exact::fma(z, p, 2.0f / 3.0f);
  const float lead = exact::fma(s, 2.0f, exact::mul(s, exact::mul(z, p)));
  constexpr float kLn2 = 0.69314718055994530942f;
  return exact::fma(__int2float_rn(exponent), kLn2, lead);
}

// (cos, sin) of 2 pi turns, turns in [0, 1): Taylor polynomials on [-pi/4, pi/4] and a quadrant.
__device__ inline float2 cos_sin_turns(float turns) {
  const float quarters = exact::mul(turns, 4.0f);
  const int quadrant = __float2int_rz(exact::add(quarters, 0.5f));
  constexpr float kHalfPi = 1.57079632679489661923f;
  const float x = exact::mul(exact::sub(quarters, __int2float_rn(quadrant)), kHalfPi);
  const float z = exact::mul(x, x);
  float c = exact::fma(z, 2.4801587e-5f, -1.3888889e-3f);
  c = exact::fma(z, c, 4.1666668e-2f);
  c = exact::fma(z, c, -0.5f);
  c = exact::fma(z, c, 1.0f);
  float s = exact::fma(z, 2.7557319e-6f, -1.984127e-4f);
  s = exact::fma(z, s, 8.333334e-3f);
  s = exact::fma(z, s, -1.6666667e-1f);
  s = exact::fma(exact::mul(z, x), s, x);
  switch (quadrant & 3) {
    case 0: return make_float2(c, s);
    case 1: return make_float2(-s, c);
    case 2: return make_float2(-c, -s);
    default: return make_float2(s, -c);
  }
}

// Two standard normals from two words: sqrt(-2 ln u) (cos, sin)(2 pi v), u in (0, 1].
__device__ inline float2 normal_pair(unsigned a, unsigned b) {
  constexpr float kUnit = 1.0f / 16777216.0f;  // 2^-24: the high 24 bits are exact in f32
  const float u = exact::mul(__uint2float_rn((a >> 8) + 1u), kUnit);
  const float radius = exact::sqrt(fmaxf(exact::mul(-2.0f, ln(u)), 0.0f));
  const float2 cs = cos_sin_turns(exact::mul(__uint2float_rn(b >> 8), kUnit));
  return make_float2(exact::mul(radius, cs.x), exact::mul(radius, cs.y));
}

// Where one stream of numbers starts; four 32-bit words in device memory, set by the host.
struct State {
  unsigned seed_lo, seed_hi, stream_lo, stream_hi;
};

// The standard normals 4 block .. 4 block + 4 of a stream.
__device__ inline float4 normals(const State& s, unsigned long long block) {
  const uint4 counter = make_uint4(unsigned(block), unsigned(block >> 32), s.stream_lo, s.stream_hi);
  const uint4 w = rounds(counter, make_uint2(s.seed_lo, s.seed_hi));
  const float2 a = normal_pair(w.x, w.y), b = normal_pair(w.z, w.w);
  return make_float4(a.x, a.y, b.x, b.y);
}

}  // namespace philox
