// posterior sample, f32.   z = scale (mean + exp(clamp(logvar, -30, 20) / 2) eps).   moments: (R, 2C), eps, z: (R, C).
// dmean = scale dz, dlogvar = scale dz exp(logvar / 2) eps / 2 (0 where clamped), deps = scale dz exp(logvar / 2).
// Work: 10 flop an element.  Bytes: 16 R C forward, 28 backward.  SDXL latent 128x128x4, N=4: 4.2 MB -> 1 us: launch-bound.
// Tile: 256 threads, 16 bytes of eps a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; C % 4 != 0 and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace posterior {

using namespace elementwise;

struct Args {
  const float* moments;  // (R, 2C)
  const float* eps;      // (R, C)
  const float* dz;       // (R, C), backward only
  float* target[2];      // z, none; backward: d moments, d eps
  Count len;             // R C
  unsigned channels;
  float scale;
  Mode mode[2];          // backward only
};

constexpr float kLow = -30.0f, kHigh = 20.0f;  // of the log variance, as in the published VAEs

__device__ inline float deviation(float log_variance) {
  return expf(0.5f * fminf(fmaxf(log_variance, kLow), kHigh));
}

__device__ inline bool whole(const Args& a) {
  return a.channels % 4 == 0 && aligned(a.moments, a.eps, a.dz, a.target[0], a.target[1]);
}

__device__ inline void forward(const Args& a) {
  for_own<4>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.channels);
    const float* mean = a.moments + p.row * a.channels * 2 + p.col;
    Lane<Vec> z = load_once<Vec>(mean);
    const Lane<Vec> log_variance = load_once<Vec>(mean + a.channels), eps = load_once<Vec>(a.eps + at);
    for (int k = 0; k < Vec; ++k) z.v[k] = a.scale * (z.v[k] + deviation(log_variance.v[k]) * eps.v[k]);
    store<Vec>(a.target[0] + at, z);
  });
}

__device__ inline void backward(const Args& a) {
  for_own<4>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.channels);
    const Count mean = p.row * a.channels * 2 + p.col;
    const Lane<Vec> log_variance = load_once<Vec>(a.moments + mean + a.channels);
    Lane<Vec> d_mean = load_once<Vec>(a.dz + at), d_log = load_once<Vec>(a.eps + at), d_eps;
    for (int k = 0; k < Vec; ++k) {
      const float v = log_variance.v[k], dev = deviation(v);
      const bool inside = v >= kLow && v <= kHigh;
      d_mean.v[k] *= a.scale;
      d_eps.v[k] = d_mean.v[k] * dev;
      d_log.v[k] = inside ? d_mean.v[k] * (0.5f * dev * d_log.v[k]) : 0.0f;
    }
    write<float, Vec>(a.target[0] + mean, d_mean, a.mode[0]);
    write<float, Vec>(a.target[0] + mean + a.channels, d_log, a.mode[0]);
    write<float, Vec>(a.target[1] + at, d_eps, a.mode[1]);
  });
}

}  // namespace posterior

EXPORT(posterior_forward, elementwise::Tile<float>, posterior::Args, posterior::forward)
EXPORT(posterior_backward, elementwise::Tile<float>, posterior::Args, posterior::backward)
