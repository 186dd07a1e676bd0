// Bilinear samples of a mask.
#pragma once
#include "common/bilinear.cuh"

namespace latent_mix {

using bilinear::share, bilinear::Span, bilinear::Tap, bilinear::tap, bilinear::touched_by;

__device__ inline float sample(const float* mask, const Tap& y, const Tap& x, int width) {
  const float* r0 = mask + (long long)y.i0 * width;
  const float* r1 = mask + (long long)y.i1 * width;
  const float a = exact::add(exact::mul(x.w0, r0[x.i0]), exact::mul(x.w1, r0[x.i1]));
  const float b = exact::add(exact::mul(x.w0, r1[x.i0]), exact::mul(x.w1, r1[x.i1]));
  return exact::add(exact::mul(y.w0, a), exact::mul(y.w1, b));
}

}  // namespace latent_mix
