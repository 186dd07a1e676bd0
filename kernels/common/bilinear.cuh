// Bilinear samples along one axis (half-pixel centres, no anti-aliasing, as torch's interpolate) and their transpose.
#pragma once
#include "common/exact.cuh"

namespace bilinear {

// The two source pixels and weights of one target pixel.
struct Tap {
  int i0, i1;
  float w0, w1;
};

// src = max((dst + 1/2) * scale - 1/2, 0), scale = source / target.
__device__ inline Tap tap(int dst, int target, int source) {
  const float scale = exact::div(__int2float_rn(source), __int2float_rn(target));
  const float x = exact::sub(exact::mul(exact::add(__int2float_rn(dst), 0.5f), scale), 0.5f);
  const float src = fmaxf(x, 0.0f);
  const int i0 = min(__float2int_rz(src), source - 1);
  const int i1 = min(i0 + 1, source - 1);
  const float w1 = exact::sub(src, __int2float_rn(i0));
  return {i0, i1, exact::sub(1.0f, w1), w1};
}

// The part of source pixel `i` in a tap; both halves where the edge folds them together.
__device__ inline float share(const Tap& t, int i) {
  return exact::add(t.i0 == i ? t.w0 : 0.0f, t.i1 == i ? t.w1 : 0.0f);
}

// Targets that may touch source pixel `i`: [first, last], one pixel wider than needed.
struct Span {
  int first, last;
};
__device__ inline Span touched_by(int i, int target, int source) {
  const float inverse = exact::div(__int2float_rn(target), __int2float_rn(source));
  const float lo = exact::mul(exact::sub(__int2float_rn(i), 0.5f), inverse);
  const float hi = exact::mul(exact::add(__int2float_rn(i), 1.5f), inverse);
  const int last = i == source - 1 ? target - 1 : min(__float2int_rz(hi) + 1, target - 1);
  return {max(__float2int_rz(lo) - 2, 0), last};
}

}  // namespace bilinear
