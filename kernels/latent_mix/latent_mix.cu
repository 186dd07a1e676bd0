// masked latent mixing, f32.   mix_0 = 0, mix_i = mix_{i-1} (1 - M_i) + gamma_i z_i M_i, out = mix_n + eps.
// z_i: (N, h_i, w_i, C) placed at (top_i, left_i); M_i: (N, H_i, W_i) resized to (h_i, w_i); out, eps: (N, H, W, C).
// Work: per element and subject 5 flop, per pixel and subject 12 more.  Bytes: 4*(2*N*H*W*C + sum N*h*w*C + 4 taps of N*h*w).
// SDXL N=1, H=W=128, C=4, two subjects of the whole canvas, mask 1024: 1.6 MB -> 0.4 us at 4.3 TB/s: launch-bound.
// Tile: 256 threads, 4 channels (16 bytes) of one pixel a thread, or 1 where C % 4 != 0.   Measured: see NOTES.md.
// Determinism: bitwise, equal to cpu.rs (every rounding is spelled out).   Requires: 16-byte aligned buffers; tails masked.
#include "common/philox.cuh"
#include "common/vector.cuh"
#include "latent_mix/mask.cuh"

namespace latent_mix {

constexpr int MaxSubjects = 16;  // cuda.rs holds the same number; sizeof(Args) is compared at load

struct Subject {
  const float* z;     // (N, h, w, C)
  const float* mask;  // (N, mask_h, mask_w)
  int top, left, h, w, mask_h, mask_w;
  float gamma;
  int unused;
};

struct Args {
  Subject subject[MaxSubjects];  // bottom first
  const float* given;            // forward: eps (N, H, W, C); backward: d_out, same shape
  const philox::State* state;    // (N), seeded forward
  float* target;                 // out, or the gradient to write
  int subjects, height, width, channels;
  int index;                     // backward: which subject
  int accumulate;                // backward: add to the old content
};

struct Place {
  int y, x;  // on the canvas
};

__device__ inline bool inside(const Subject& s, Place p) {
  return p.y >= s.top && p.x >= s.left && p.y - s.top < s.h && p.x - s.left < s.w;
}

// M_i at a canvas pixel that lies inside the segment.
__device__ inline float mask_at(const Subject& s, Place p, int picture) {
  const float* mask = s.mask + (long long)picture * s.mask_h * s.mask_w;
  return sample(mask, tap(p.y - s.top, s.h, s.mask_h), tap(p.x - s.left, s.w, s.mask_w), s.mask_w);
}

__device__ inline long long segment_pixel(const Subject& s, Place p, int picture) {
  return ((long long)picture * s.h + (p.y - s.top)) * s.w + (p.x - s.left);
}

// mix_n of the first `n` subjects at one pixel, channels c .. c + Vec.
template <int Vec>
__device__ inline Lane<Vec> composite(const Args& a, int n, Place p, int c, int picture) {
  Lane<Vec> mix = {};
  for (int i = 0; i < n; ++i) {
    const Subject& s = a.subject[i];
    if (!inside(s, p)) continue;
    const float m = mask_at(s, p, picture), rest = exact::sub(1.0f, m);
    const Lane<Vec> z = load_once<Vec>(s.z + segment_pixel(s, p, picture) * a.channels + c);
    for (int k = 0; k < Vec; ++k)
      mix.v[k] = exact::add(exact::mul(mix.v[k], rest), exact::mul(s.gamma, exact::mul(z.v[k], m)));
  }
  return mix;
}

// How much of subject i shows through the later ones: prod over j > i of (1 - M_j).
__device__ inline float visible(const Args& a, int i, Place p, int picture) {
  float t = 1.0f;
  for (int j = i + 1; j < a.subjects; ++j)
    if (inside(a.subject[j], p))
      t = exact::mul(t, exact::sub(1.0f, mask_at(a.subject[j], p, picture)));
  return t;
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
  const long long image = (long long)picture * a.height * a.width * a.channels;
  Lane<Vec> out = composite<Vec>(a, a.subjects, p, c, picture);
  const Lane<Vec> eps = Seeded ? seeded_noise<Vec>(a, at, picture) : load_once<Vec>(a.given + image + at);
  for (int k = 0; k < Vec; ++k) out.v[k] = exact::add(out.v[k], eps.v[k]);
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

// d z_i = gamma_i M_i prod_{j>i} (1 - M_j) d_out, 0 where the segment lies outside the canvas.
template <int Vec>
__device__ inline void backward_latents(const Args& a) {
  const Subject& s = a.subject[a.index];
  Place own, p;
  int c;
  long long at;
  if (!own_element<Vec>(s.h, s.w, a.channels, own, c, at)) return;
  const int picture = int(blockIdx.y);
  p = {own.y + s.top, own.x + s.left};
  Lane<Vec> g = {};
  if (p.y >= 0 && p.x >= 0 && p.y < a.height && p.x < a.width) {
    const float share = exact::mul(exact::mul(s.gamma, mask_at(s, p, picture)), visible(a, a.index, p, picture));
    const long long pixel = ((long long)picture * a.height + p.y) * a.width + p.x;
    g = load_once<Vec>(a.given + pixel * a.channels + c);
    for (int k = 0; k < Vec; ++k) g.v[k] = exact::mul(share, g.v[k]);
  }
  write_gradient<Vec>(a.target + (long long)picture * s.h * s.w * a.channels + at, g, a.accumulate);
}

// d eps = d_out.
template <int Vec>
__device__ inline void backward_noise(const Args& a) {
  Place p;
  int c;
  long long at;
  if (!own_element<Vec>(a.height, a.width, a.channels, p, c, at)) return;
  at += (long long)blockIdx.y * a.height * a.width * a.channels;
  write_gradient<Vec>(a.target + at, load_once<Vec>(a.given + at), a.accumulate);
}

// Gradient of the resized mask at one canvas pixel:
// sum_c d_out prod_{j>i} (1 - M_j) (gamma_i z_i - mix_{i-1}).
__device__ inline float resized_mask_gradient(const Args& a, Place p, int picture) {
  const Subject& s = a.subject[a.index];
  const long long pixel = ((long long)picture * a.height + p.y) * a.width + p.x;
  const float* z = s.z + segment_pixel(s, p, picture) * a.channels;
  float sum = 0.0f;
  for (int c = 0; c < a.channels; ++c) {
    const float under = composite<1>(a, a.index, p, c, picture).v[0];
    const float change = exact::sub(exact::mul(s.gamma, z[c]), under);
    sum = exact::add(sum, exact::mul(a.given[pixel * a.channels + c], change));
  }
  return exact::mul(sum, visible(a, a.index, p, picture));
}

// d M_i at the mask's own resolution: gathers over the pixels that sampled it; no atomics.
__device__ inline void backward_mask(const Args& a) {
  const Subject& s = a.subject[a.index];
  Place m;
  int c;
  long long at;
  if (!own_element<1>(s.mask_h, s.mask_w, 1, m, c, at)) return;
  const int picture = int(blockIdx.y);
  const Span rows = touched_by(m.y, s.h, s.mask_h), cols = touched_by(m.x, s.w, s.mask_w);
  float sum = 0.0f;
  for (int y = rows.first; y <= rows.last; ++y) {
    const float wy = share(tap(y, s.h, s.mask_h), m.y);
    const int canvas_y = y + s.top;
    if (wy == 0.0f || canvas_y < 0 || canvas_y >= a.height) continue;
    for (int x = cols.first; x <= cols.last; ++x) {
      const float wx = share(tap(x, s.w, s.mask_w), m.x);
      const Place p = {canvas_y, x + s.left};
      if (wx == 0.0f || p.x < 0 || p.x >= a.width) continue;
      sum = exact::add(sum, exact::mul(exact::mul(wy, wx), resized_mask_gradient(a, p, picture)));
    }
  }
  write_gradient<1>(a.target + (long long)picture * s.mask_h * s.mask_w + at, {{sum}}, a.accumulate);
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
