// forward process, f32.   out = p z + q eps, (p, q) = (sqrt(abar), sqrt(1 - abar)) noisy, (-sqrt(1 - abar), sqrt(abar)) velocity.
// z, eps, out: (N, Each), t: (N) i32, abar: (T).  Backward: dz = p dout, deps = q dout, one pass.
// Work: 3 flop an element.  Bytes: 12 an element.  SDXL latent 128x128x4, N=4: 3.1 MB -> 0.7 us at 4.3 TB/s: launch-bound.
// Tile: 256 threads, 16 bytes a thread, one sample a blockIdx.y.   Measured: see NOTES.md.
// Determinism: bitwise, equal to cpu.rs.   Requires: nothing; a timestep outside the table takes the nearest end.
#include "common/elementwise.cuh"
#include "common/exact.cuh"

namespace diffuse {

using namespace elementwise;

struct Args {
  const int* t;
  const float* table;
  const float* from[2];  // z, eps; backward: dout, none
  float* target[2];      // out, none; backward: dz, deps
  Count each;
  int table_len;
  int velocity;
  Mode mode[2];          // backward only
};

struct Factors {
  float z, eps;
};

__device__ inline Factors factors(const Args& a) {
  const int t = min(max(a.t[blockIdx.y], 0), a.table_len - 1);
  const float abar = a.table[t];
  const float signal = exact::sqrt(abar), noise = exact::sqrt(exact::sub(1.0f, abar));
  return a.velocity ? Factors{-noise, signal} : Factors{signal, noise};
}

__device__ inline bool whole(const Args& a) {
  return a.each % 4 == 0 && aligned(a.from[0], a.from[1], a.target[0], a.target[1]);
}

__device__ inline void forward(const Args& a) {
  const Factors f = factors(a);
  for_own<4>(a.each, whole(a), [&]<int Vec>(Count at) {
    at += blockIdx.y * a.each;
    Lane<Vec> y = load_once<Vec>(a.from[0] + at);
    const Lane<Vec> eps = load_once<Vec>(a.from[1] + at);
    for (int k = 0; k < Vec; ++k)
      y.v[k] = exact::add(exact::mul(f.z, y.v[k]), exact::mul(f.eps, eps.v[k]));
    store<Vec>(a.target[0] + at, y);
  });
}

template <int Vec>
__device__ inline Lane<Vec> scaled(float f, Lane<Vec> g) {
  for (int k = 0; k < Vec; ++k) g.v[k] = exact::mul(f, g.v[k]);
  return g;
}

__device__ inline void backward(const Args& a) {
  const Factors f = factors(a);
  for_own<4>(a.each, whole(a), [&]<int Vec>(Count at) {
    at += blockIdx.y * a.each;
    const Lane<Vec> g = load_once<Vec>(a.from[0] + at);
    write<float, Vec>(a.target[0] + at, scaled<Vec>(f.z, g), a.mode[0]);
    write<float, Vec>(a.target[1] + at, scaled<Vec>(f.eps, g), a.mode[1]);
  });
}

}  // namespace diffuse

EXPORT(diffuse_forward, elementwise::Tile<float>, diffuse::Args, diffuse::forward)
EXPORT(diffuse_backward, elementwise::Tile<float>, diffuse::Args, diffuse::backward)
