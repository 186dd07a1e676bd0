// sums of a convolution's backward, f32 partials.   out[i] (+)= sum_r partial[r, i], r ascending;
//   columns: partial[r, o] = sum over the r-th range of pixels of dy[p, o]: db in two stages.
// Bytes: 4*ranges*Len read + Len written; columns read dy once.
// SDXL dy (16384, 320) bf16: 10 MB: 3 us at 4.3 TB/s -> bandwidth-bound.
// Tile: reduce 256 elements a block; columns 512 bytes of channels x 8 pixels, 256 threads.
// Measured: see NOTES.md.   Determinism: bitwise; every order is fixed.   Requires: nothing.
#include "common/row_sums.cuh"

namespace conv2d {

struct ReduceArgs {
  const float* partial;  // (ranges, len)
  void* out;             // (len)
  long long len;
  int ranges;
  int accumulate;
};

using ReduceTile = FlatTile<1>;

template <class T>
__device__ inline void reduce(const ReduceArgs& a) {
  const long long i = (long long)blockIdx.x * ReduceTile::Threads + threadIdx.x;
  if (i >= a.len) return;
  T& out = static_cast<T*>(a.out)[i];
  float sum = a.accumulate ? to_f32(out) : 0.0f;
#pragma unroll 4
  for (int r = 0; r < a.ranges; ++r) sum += a.partial[r * a.len + i];
  out = from_f32<T>(sum);
}

struct ColumnArgs {
  const void* dy;   // (pixels, channels)
  float* partial;   // (ranges, channels)
  long long pixels;
  int channels;
  int range;        // pixels of one range
};

// Grid: (channel tiles, ranges).
template <class T>
__device__ inline void columns(const ColumnArgs& a) {
  const row_sums::Matrix<T> dy = {static_cast<const T*>(a.dy), unsigned(a.channels)};
  const long long first = (long long)blockIdx.y * a.range, past = first + a.range;
  const auto sum = row_sums::sum(dy, first, past < a.pixels ? past : a.pixels);
  if (sum.inside) a.partial[(long long)blockIdx.y * a.channels + sum.col] = sum.value;
}

}  // namespace conv2d

EXPORT(conv2d_reduce_f32, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<float>)
EXPORT(conv2d_reduce_bf16, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<bf16>)
EXPORT(conv2d_reduce_f16, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<f16>)
EXPORT(conv2d_columns_f32, row_sums::Tile<float>, conv2d::ColumnArgs, conv2d::columns<float>)
EXPORT(conv2d_columns_bf16, row_sums::Tile<bf16>, conv2d::ColumnArgs, conv2d::columns<bf16>)
EXPORT(conv2d_columns_f16, row_sums::Tile<f16>, conv2d::ColumnArgs, conv2d::columns<f16>)
