// slice, f32 bf16 f16.   y[r, i] = x[r, first + i], i < part; dx = dy in its place, 0 elsewhere.   x: (R, C), y: (R, part).
// Work: none.  Bytes: 2 R part sizeof(T) forward, R (C + part) backward: memory-bound.
// The tokens of SAM's mask decoder, (1, 7 x 256): 0.5 KB, a launch.
// Tile: 256 threads, 16 bytes of the target a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; C, first or part not a multiple of 16 bytes and odd addresses go one by one.
#include "common/elementwise.cuh"

namespace slice {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;  // x, or dy
  T* target;      // y, or dx
  Count len;      // of target
  unsigned cols, first, part;
  Mode mode;      // backward only
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return (a.cols | a.first | a.part) % PerAccess<T> == 0 && aligned(a.from, a.target);
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.part);
    store<Vec>(a.target + at, load<Vec>(a.from + p.row * a.cols + a.first + p.col));
  });
}

template <class T>
__device__ inline void backward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.cols);
    Lane<Vec> g = {};
    if (p.col >= a.first && p.col < a.first + a.part)
      g = load<Vec>(a.from + p.row * a.part + (p.col - a.first));
    write<T, Vec>(a.target + at, g, a.mode);
  });
}

}  // namespace slice

EXPORT(slice_forward_f32, elementwise::Tile<float>, slice::Args<float>, slice::forward<float>)
EXPORT(slice_forward_bf16, elementwise::Tile<bf16>, slice::Args<bf16>, slice::forward<bf16>)
EXPORT(slice_forward_f16, elementwise::Tile<f16>, slice::Args<f16>, slice::forward<f16>)
EXPORT(slice_backward_f32, elementwise::Tile<float>, slice::Args<float>, slice::backward<float>)
EXPORT(slice_backward_bf16, elementwise::Tile<bf16>, slice::Args<bf16>, slice::backward<bf16>)
EXPORT(slice_backward_f16, elementwise::Tile<f16>, slice::Args<f16>, slice::backward<f16>)
