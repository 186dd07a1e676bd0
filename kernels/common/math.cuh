// Transcendental functions of the activations, with the CPU's formulas (src/device/cpu/vector.rs).
#pragma once
#include "common/export.cuh"

namespace math {

// `expf` is within 2 ulp on every device. `__fdividef` is too, but gives 0 where |b| > 2^126; the exact
// division costs a branch and three times the instructions.
__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// Rational minimax on [-4, 4], error below 1e-6.
__device__ inline float erf(float x) {
  x = fminf(fmaxf(x, -4.0f), 4.0f);
  const float z = x * x;
  float p = -2.7261423e-10f * z + 2.7706814e-8f;
  p = p * z - 2.1010241e-6f;
  p = p * z - 5.6925064e-5f;
  p = p * z - 7.3499063e-4f;
  p = p * z - 2.9545998e-3f;
  p = p * z - 1.6096033e-2f;
  float q = -1.4566072e-5f * z - 2.1337406e-4f;
  q = q * z - 1.682827e-3f;
  q = q * z - 7.373329e-3f;
  q = q * z - 1.4264739e-2f;
  return __fdividef(x * p, q);
}

constexpr float kSqrtHalf = 0.70710678118654752440f;
constexpr float kInvSqrtTau = 0.39894228040143267794f;  // 1 / sqrt(2 pi)

// x Phi(x).
__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erf(x * kSqrtHalf)); }

// gelu(x) and its slope Phi(x) + x phi(x), one erf for both.
struct Gelu {
  float value, slope;
};
__device__ inline Gelu gelu_with_slope(float x) {
  const float phi = 0.5f * (1.0f + erf(x * kSqrtHalf));
  return {x * phi, phi + x * kInvSqrtTau * expf(-0.5f * x * x)};
}

// Slope of x sigmoid(k x).
__device__ inline float swish_slope(float x, float k) {
  const float s = sigmoid(k * x);
  return s * (1.0f + k * x * (1.0f - s));
}

}  // namespace math
