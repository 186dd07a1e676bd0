// windows, f32 bf16 f16.   A picture (N, H, W, C) cut into windows (N i j, h w, C) with zeros past it, and back.
// Each is the other's gradient: a thread makes one piece of the target and knows where it comes from.
// Work: none.  Bytes: (N H W + N i j h w) C sizeof(T): memory-bound.
// SAM ViT-H, 64 x 64 of 1280 in windows of 14 (70 x 70 with padding), bf16: 23 MB -> 5.4 us at 4.3 TB/s.
// Tile: 256 threads, 16 bytes of channels a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; C not a multiple of 16 bytes and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace windows {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;
  T* target;
  Count len;            // of target
  unsigned h, w, channels;
  unsigned window[2];   // height, width
  unsigned count[2];    // down, across
  Mode mode;
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.channels % PerAccess<T> == 0 && aligned(a.from, a.target);
}

template <class T>
__device__ inline void partition(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.channels);
    const unsigned pixel = unsigned(p.row), line = pixel / a.window[1], dx = pixel - line * a.window[1];
    const unsigned window = line / a.window[0], dy = line - window * a.window[0];
    const unsigned band = window / a.count[1], j = window - band * a.count[1];
    const unsigned n = band / a.count[0], i = band - n * a.count[0];
    const unsigned y = i * a.window[0] + dy, x = j * a.window[1] + dx;
    Lane<Vec> v = {};
    if (y < a.h && x < a.w) v = load<Vec>(a.from + ((Count(n) * a.h + y) * a.w + x) * a.channels + p.col);
    write<T, Vec>(a.target + at, v, a.mode);
  });
}

template <class T>
__device__ inline void unpartition(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.channels);
    const unsigned pixel = unsigned(p.row), line = pixel / a.w, x = pixel - line * a.w;
    const unsigned n = line / a.h, y = line - n * a.h;
    const unsigned i = y / a.window[0], dy = y - i * a.window[0];
    const unsigned j = x / a.window[1], dx = x - j * a.window[1];
    const Count window = (Count(n) * a.count[0] + i) * a.count[1] + j;
    const Count row = (window * a.window[0] + dy) * a.window[1] + dx;
    write<T, Vec>(a.target + at, load<Vec>(a.from + row * a.channels + p.col), a.mode);
  });
}

}  // namespace windows

EXPORT(windows_partition_f32, elementwise::Tile<float>, windows::Args<float>, windows::partition<float>)
EXPORT(windows_partition_bf16, elementwise::Tile<bf16>, windows::Args<bf16>, windows::partition<bf16>)
EXPORT(windows_partition_f16, elementwise::Tile<f16>, windows::Args<f16>, windows::partition<f16>)
EXPORT(windows_unpartition_f32, elementwise::Tile<float>, windows::Args<float>, windows::unpartition<float>)
EXPORT(windows_unpartition_bf16, elementwise::Tile<bf16>, windows::Args<bf16>, windows::unpartition<bf16>)
EXPORT(windows_unpartition_f16, elementwise::Tile<f16>, windows::Args<f16>, windows::unpartition<f16>)
