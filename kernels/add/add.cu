// sums, f32 bf16 f16.   y = a + b; da, db = dy.   y[n, r, c] = x[n, r, c] + e[n, c]; de = sum_r dy.
// Work: 1 flop an element.  Bytes: add 3, its backward 1 read + 1 a gradient; add_channels 2, backward 2, of sizeof(T).
// SDXL 128x128, B=2, C=320, bf16: 63 MB (add) -> 15 us, 42 MB (add_channels) -> 9.8 us at 4.3 TB/s: memory-bound.
// Tile: 256 threads, 16 bytes a thread; channel sums: see sums.cuh.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; C not a multiple of 16 bytes and odd addresses go element by element.
#include "add/sums.cuh"

namespace add {

using namespace elementwise;

template <class T>
struct Args {
  const T* a;  // a, or x (N, R, C)
  const T* b;  // b, or e (N, C)
  T* y;
  Count len;   // of one sample; add has one sample
  unsigned cols, unused;
};

template <class T>
struct GradArgs {
  const T* dy;
  T* target[2];  // da, db
  Count len;
  Mode mode[2];
};

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.a, a.b, a.y), [&]<int Vec>(Count at) {
    Lane<Vec> y = load_once<Vec>(a.a + at);
    const Lane<Vec> b = load_once<Vec>(a.b + at);
    for (int k = 0; k < Vec; ++k) y.v[k] += b.v[k];
    store<Vec>(a.y + at, y);
  });
}

// Both may be the same buffer (x + x): each thread writes the first before it reads the second.
template <class T>
__device__ inline void backward(const GradArgs<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.dy, a.target[0], a.target[1]), [&]<int Vec>(Count at) {
    const Lane<Vec> g = load_once<Vec>(a.dy + at);
    write<T, Vec>(a.target[0] + at, g, a.mode[0]);
    write<T, Vec>(a.target[1] + at, g, a.mode[1]);
  });
}

// One sample a blockIdx.y; e stays in L1.
template <class T>
__device__ inline void channels_forward(const Args<T>& a) {
  const bool whole = a.cols % PerAccess<T> == 0 && aligned(a.a, a.b, a.y);
  for_own<PerAccess<T>>(a.len, whole, [&]<int Vec>(Count at) {
    const Count sample = blockIdx.y * a.len;
    Lane<Vec> y = load_once<Vec>(a.a + sample + at);
    const Lane<Vec> e = load<Vec>(a.b + Count(blockIdx.y) * a.cols + cell<Vec>(at, a.cols).col);
    for (int k = 0; k < Vec; ++k) y.v[k] += e.v[k];
    store<Vec>(a.y + sample + at, y);
  });
}

}  // namespace add

EXPORT(add_forward_f32, elementwise::Tile<float>, add::Args<float>, add::forward<float>)
EXPORT(add_forward_bf16, elementwise::Tile<bf16>, add::Args<bf16>, add::forward<bf16>)
EXPORT(add_forward_f16, elementwise::Tile<f16>, add::Args<f16>, add::forward<f16>)
EXPORT(add_backward_f32, elementwise::Tile<float>, add::GradArgs<float>, add::backward<float>)
EXPORT(add_backward_bf16, elementwise::Tile<bf16>, add::GradArgs<bf16>, add::backward<bf16>)
EXPORT(add_backward_f16, elementwise::Tile<f16>, add::GradArgs<f16>, add::backward<f16>)
EXPORT(add_channels_f32, elementwise::Tile<float>, add::Args<float>, add::channels_forward<float>)
EXPORT(add_channels_bf16, elementwise::Tile<bf16>, add::Args<bf16>, add::channels_forward<bf16>)
EXPORT(add_channels_f16, elementwise::Tile<f16>, add::Args<f16>, add::channels_forward<f16>)
EXPORT(add_channel_sums_f32, row_sums::Tile<float>, add::SumArgs<float>, add::channel_sums<float>)
EXPORT(add_channel_sums_bf16, row_sums::Tile<bf16>, add::SumArgs<bf16>, add::channel_sums<bf16>)
EXPORT(add_channel_sums_f16, row_sums::Tile<f16>, add::SumArgs<f16>, add::channel_sums<f16>)
EXPORT(add_channel_total_f32, FlatTile<1>, row_sums::TotalArgs<float>, row_sums::total<float>)
EXPORT(add_channel_total_bf16, FlatTile<1>, row_sums::TotalArgs<bf16>, row_sums::total<bf16>)
EXPORT(add_channel_total_f16, FlatTile<1>, row_sums::TotalArgs<f16>, row_sums::total<f16>)
