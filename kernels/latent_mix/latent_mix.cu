// masked latent mixing, f32.   out = gamma (z * M) + eps.
// z, out, eps: (N, H, W, C); M: a mask (N, mask_h, mask_w) resized to (H, W).
// Work: per element 3 flop, per pixel 12 more.  Bytes: 4*(3*N*H*W*C + 4 taps of N*H*W).
// SDXL N=1, H=W=128, C=4, mask 1024: 1 MB -> 0.3 us at 4.3 TB/s: launch-bound.
// Tile: 256 threads, 4 channels (16 bytes) of one pixel a thread, or 1 where C % 4 != 0.   Measured: see NOTES.md.
// Determinism: bitwise, equal to cpu.rs (every rounding is spelled out).   Requires: 16-byte aligned buffers; tails masked.
#include "common/philox.cuh"
#include "common/vector.cuh"
#include "latent_mix/mask.cuh"

namespace latent_mix {

struct Args {
  const float* z;             // (N, height, width, channels)
  const float* mask;          // (N, mask_height, mask_width)
  const float* given;         // forward: eps (N, H, W, C); backward: d_out, same shape
  const philox::State* state; // (N), seeded forward
  float* target;              // out, or the gradient to write
  int height, width, channels, mask_height, mask_width;
  float gamma;
  int accumulate;             // backward: add to the old content
  int unused;
};

struct Place {
  int y, x;
};

// The resized mask at a pixel.
__device__ inline float mask_at(const Args& a, Place p, int picture) {
  const float* mask = a.mask + (long long)picture * a.mask_height * a.mask_width;
  return sample(mask, tap(p.y, a.height, a.mask_height), tap(p.x, a.width, a.mask_width), a.mask_width);
}

// The first element of a picture.
__device__ inline long long first_of(const Args& a, int picture) {
  return (long long)picture * a.height * a.width * a.channels;
}

template <int Vec>
__device__ inline Lane<Vec> seeded_noise(const Args& a, long long element, int picture) {
  const float4 q = philox::normals(a.state[picture], (unsigned long long)(element / 4));
  if constexpr (Vec == 4) {
    return {{q.x, q.y, q.z, q.w}};
  } else {  // selects, not an indexed array: that would live in local memory
    const int k = int(element % 4);
    return {{k == 0 ? q.x : k == 1 ? q.y : k == 2 ? q.z : q.w}};
  }
}

// Which pixel and channel this thread owns in an image of (h, w, C); false past its end.
template <int Vec>
__device__ inline bool own_element(int h, int w, int channels, Place& p, int& c, long long& at) {
  at = ((long long)blockIdx.x * FlatTile<Vec>::Threads + threadIdx.x) * Vec;
  if (at >= (long long)h * w * channels) return false;
  const long long pixel = at / channels;
  c = int(at - pixel * channels);
  p = {int(pixel / w), int(pixel % w)};
  return true;
}

template <int Vec, bool Seeded>
__device__ inline void forward(const Args& a) {
  Place p;
  int c;
  long long at;
  if (!own_element<Vec>(a.height, a.width, a.channels, p, c, at)) return;
  const int picture = int(blockIdx.y);
  const long long image = first_of(a, picture);
  const float m = mask_at(a, p, picture);
  Lane<Vec> out = load_once<Vec>(a.z + image + at);
  const Lane<Vec> eps = Seeded ? seeded_noise<Vec>(a, at, picture) : load_once<Vec>(a.given + image + at);
  for (int k = 0; k < Vec; ++k)
    out.v[k] = exact::add(eps.v[k], exact::mul(a.gamma, exact::mul(out.v[k], m)));
  store<Vec>(a.target + image + at, out);
}

template <int Vec>
__device__ inline void write_gradient(float* target, Lane<Vec> g, int accumulate) {
  if (accumulate) {
    const Lane<Vec> old = load<Vec>(target);
    for (int k = 0; k < Vec; ++k) g.v[k] = exact::add(old.v[k], g.v[k]);
  }
  store<Vec>(target, g);
}

// d z = gamma M d_out.
template <int Vec>
__device__ inline void backward_latents(const Args& a) {
  Place p;
  int c;
  long long at;
  if (!own_element<Vec>(a.height, a.width, a.channels, p, c, at)) return;
  const int picture = int(blockIdx.y);
  const float share = exact::mul(a.gamma, mask_at(a, p, picture));
  at += first_of(a, picture);
  Lane<Vec> g = load_once<Vec>(a.given + at);
  for (int k = 0; k < Vec; ++k) g.v[k] = exact::mul(share, g.v[k]);
  write_gradient<Vec>(a.target + at, g, a.accumulate);
}

// d eps = d_out.
template <int Vec>
__device__ inline void backward_noise(const Args& a) {
  Place p;
  int c;
  long long at;
  if (!own_element<Vec>(a.height, a.width, a.channels, p, c, at)) return;
  at += first_of(a, int(blockIdx.y));
  write_gradient<Vec>(a.target + at, load_once<Vec>(a.given + at), a.accumulate);
}

// Gradient of the resized mask at one pixel: sum_c d_out gamma z.
__device__ inline float resized_mask_gradient(const Args& a, Place p, int picture) {
  const long long at = first_of(a, picture) + ((long long)p.y * a.width + p.x) * a.channels;
  float sum = 0.0f;
  for (int c = 0; c < a.channels; ++c)
    sum = exact::add(sum, exact::mul(a.given[at + c], exact::mul(a.gamma, a.z[at + c])));
  return sum;
}

// d M at the mask's own resolution: gathers over the pixels that sampled it; no atomics.
__device__ inline void backward_mask(const Args& a) {
  Place m;
  int c;
  long long at;
  if (!own_element<1>(a.mask_height, a.mask_width, 1, m, c, at)) return;
  const int picture = int(blockIdx.y);
  const Span rows = touched_by(m.y, a.height, a.mask_height), cols = touched_by(m.x, a.width, a.mask_width);
  float sum = 0.0f;
  for (int y = rows.first; y <= rows.last; ++y) {
    const float wy = share(tap(y, a.height, a.mask_height), m.y);
    if (wy == 0.0f) continue;
    for (int x = cols.first; x <= cols.last; ++x) {
      const float wx = share(tap(x, a.width, a.mask_width), m.x);
      if (wx == 0.0f) continue;
      sum = exact::add(sum, exact::mul(exact::mul(wy, wx), resized_mask_gradient(a, {y, x}, picture)));
    }
  }
  write_gradient<1>(a.target + (long long)picture * a.mask_height * a.mask_width + at, {{sum}}, a.accumulate);
}

}  // namespace latent_mix

EXPORT(latent_mix_forward_given_vec4, FlatTile<4>, latent_mix::Args, (latent_mix::forward<4, false>))
EXPORT(latent_mix_forward_given_scalar, FlatTile<1>, latent_mix::Args, (latent_mix::forward<1, false>))
EXPORT(latent_mix_forward_seeded_vec4, FlatTile<4>, latent_mix::Args, (latent_mix::forward<4, true>))
EXPORT(latent_mix_forward_seeded_scalar, FlatTile<1>, latent_mix::Args, (latent_mix::forward<1, true>))
EXPORT(latent_mix_backward_latents_vec4, FlatTile<4>, latent_mix::Args, latent_mix::backward_latents<4>)
EXPORT(latent_mix_backward_latents_scalar, FlatTile<1>, latent_mix::Args, latent_mix::backward_latents<1>)
EXPORT(latent_mix_backward_noise_vec4, FlatTile<4>, latent_mix::Args, latent_mix::backward_noise<4>)
EXPORT(latent_mix_backward_noise_scalar, FlatTile<1>, latent_mix::Args, latent_mix::backward_noise<1>)
EXPORT(latent_mix_backward_mask, FlatTile<1>, latent_mix::Args, latent_mix::backward_mask)
