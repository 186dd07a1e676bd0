// resampling, f32 bf16 f16.   nearest: y[i, j] = x[floor(i H / h), floor(j W / w)]; bilinear: 2 x 2 taps, half-pixel centres.
// x: (N, H, W, C), y: (N, h, w, C).  Backward gathers: each dx reads the dy that read it; no atomics.
// Work: 0 (nearest) or 6 flop an output.  Bytes: (H W + h w) N C sizeof(T) (taps of bilinear come from L1 and L2).
// SDXL 2x upsample 32 -> 64, B=2, C=1280, bf16: 26 MB -> 6.1 us at 4.3 TB/s: memory-bound.
// Tile: 256 threads, 16 bytes of channels a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; C not a multiple of 16 bytes and odd addresses go element by element.
#include "common/bilinear.cuh"
#include "common/elementwise.cuh"

namespace resize {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;  // x, or dy
  T* target;      // y, or dx
  Count len;      // of target
  int in_h, in_w, out_h, out_w, channels;
  Mode mode;      // backward only
};

struct Place {
  int picture, y, x;
  unsigned c;
};

// Where element `at` lies in pictures of (h, w, C).
template <int Vec>
__device__ inline Place place(Count at, int h, int w, int channels) {
  const Cell p = cell<Vec>(at, unsigned(channels));
  const unsigned pixel = unsigned(p.row), line = pixel / unsigned(w), picture = line / unsigned(h);
  return {int(picture), int(line - picture * unsigned(h)), int(pixel - line * unsigned(w)), p.col};
}

// Vec channels of pixel (y, x) of a picture of (h, w, C).
template <class T, int Vec>
__device__ inline Lane<Vec> pixel(const Args<T>& a, int h, int w, Place p, int y, int x) {
  const Count row = (Count(p.picture) * h + y) * w + x;
  return load<Vec>(a.from + row * a.channels + p.c);
}

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.channels % PerAccess<T> == 0 && aligned(a.from, a.target);
}

template <int Vec>
__device__ inline void add_scaled(Lane<Vec>& sum, float w, const Lane<Vec>& x) {
  for (int k = 0; k < Vec; ++k) sum.v[k] += w * x.v[k];
}

template <class T>
__device__ inline void nearest_forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Place p = place<Vec>(at, a.out_h, a.out_w, a.channels);
    const int y = int(unsigned(p.y * a.in_h) / unsigned(a.out_h));
    const int x = int(unsigned(p.x * a.in_w) / unsigned(a.out_w));
    store<Vec>(a.target + at, pixel<T, Vec>(a, a.in_h, a.in_w, p, y, x));
  });
}

// First target index that reads source index `i` or a later one: ceil(i target / source).
__device__ inline int first_reader(int i, int target, int source) {
  return int(unsigned(i * target + source - 1) / unsigned(source));
}

template <class T>
__device__ inline void nearest_backward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Place p = place<Vec>(at, a.in_h, a.in_w, a.channels);
    const int y1 = first_reader(p.y + 1, a.out_h, a.in_h), x1 = first_reader(p.x + 1, a.out_w, a.in_w);
    Lane<Vec> sum = {};
    for (int y = first_reader(p.y, a.out_h, a.in_h); y < y1; ++y)
      for (int x = first_reader(p.x, a.out_w, a.in_w); x < x1; ++x)
        add_scaled<Vec>(sum, 1.0f, pixel<T, Vec>(a, a.out_h, a.out_w, p, y, x));
    write<T, Vec>(a.target + at, sum, a.mode);
  });
}

template <class T>
__device__ inline void bilinear_forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Place p = place<Vec>(at, a.out_h, a.out_w, a.channels);
    const auto ty = bilinear::tap(p.y, a.out_h, a.in_h), tx = bilinear::tap(p.x, a.out_w, a.in_w);
    Lane<Vec> top = {}, low = {}, y = {};
    add_scaled<Vec>(top, tx.w0, pixel<T, Vec>(a, a.in_h, a.in_w, p, ty.i0, tx.i0));
    add_scaled<Vec>(top, tx.w1, pixel<T, Vec>(a, a.in_h, a.in_w, p, ty.i0, tx.i1));
    add_scaled<Vec>(low, tx.w0, pixel<T, Vec>(a, a.in_h, a.in_w, p, ty.i1, tx.i0));
    add_scaled<Vec>(low, tx.w1, pixel<T, Vec>(a, a.in_h, a.in_w, p, ty.i1, tx.i1));
    add_scaled<Vec>(y, ty.w0, top);
    add_scaled<Vec>(y, ty.w1, low);
    store<Vec>(a.target + at, y);
  });
}

template <class T>
__device__ inline void bilinear_backward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Place p = place<Vec>(at, a.in_h, a.in_w, a.channels);
    const auto rows = bilinear::touched_by(p.y, a.out_h, a.in_h);
    const auto cols = bilinear::touched_by(p.x, a.out_w, a.in_w);
    Lane<Vec> sum = {};
    for (int y = rows.first; y <= rows.last; ++y) {
      const float wy = bilinear::share(bilinear::tap(y, a.out_h, a.in_h), p.y);
      if (wy == 0.0f) continue;
      for (int x = cols.first; x <= cols.last; ++x) {
        const float wx = bilinear::share(bilinear::tap(x, a.out_w, a.in_w), p.x);
        if (wx != 0.0f) add_scaled<Vec>(sum, wy * wx, pixel<T, Vec>(a, a.out_h, a.out_w, p, y, x));
      }
    }
    write<T, Vec>(a.target + at, sum, a.mode);
  });
}

}  // namespace resize

EXPORT(resize_nearest_f32, elementwise::Tile<float>, resize::Args<float>, resize::nearest_forward<float>)
EXPORT(resize_nearest_bf16, elementwise::Tile<bf16>, resize::Args<bf16>, resize::nearest_forward<bf16>)
EXPORT(resize_nearest_f16, elementwise::Tile<f16>, resize::Args<f16>, resize::nearest_forward<f16>)
EXPORT(resize_nearest_backward_f32, elementwise::Tile<float>, resize::Args<float>, resize::nearest_backward<float>)
EXPORT(resize_nearest_backward_bf16, elementwise::Tile<bf16>, resize::Args<bf16>, resize::nearest_backward<bf16>)
EXPORT(resize_nearest_backward_f16, elementwise::Tile<f16>, resize::Args<f16>, resize::nearest_backward<f16>)
EXPORT(resize_bilinear_f32, elementwise::Tile<float>, resize::Args<float>, resize::bilinear_forward<float>)
EXPORT(resize_bilinear_bf16, elementwise::Tile<bf16>, resize::Args<bf16>, resize::bilinear_forward<bf16>)
EXPORT(resize_bilinear_f16, elementwise::Tile<f16>, resize::Args<f16>, resize::bilinear_forward<f16>)
EXPORT(resize_bilinear_backward_f32, elementwise::Tile<float>, resize::Args<float>, resize::bilinear_backward<float>)
EXPORT(resize_bilinear_backward_bf16, elementwise::Tile<bf16>, resize::Args<bf16>, resize::bilinear_backward<bf16>)
EXPORT(resize_bilinear_backward_f16, elementwise::Tile<f16>, resize::Args<f16>, resize::bilinear_backward<f16>)
