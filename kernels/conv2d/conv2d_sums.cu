// sums of a convolution's backward, f32 partials.   out[i] (+)= sum_r partial[r, i], r ascending;
//   columns: partial[r, o] = sum over the r-th range of pixels of dy[p, o]: db in two stages.
// Bytes: 4*ranges*Len read + Len written; columns read dy once.
// SDXL dy (16384, 320) bf16: 10 MB: 3 us at 4.3 TB/s -> bandwidth-bound.
// Tile: reduce 256 elements a block, columns 32 channels x 8 pixel lanes; 256 threads.
// Measured: see NOTES.md.   Determinism: bitwise; every order is fixed.   Requires: nothing.
#include "common/element.cuh"
#include "common/shared.cuh"
#include "conv2d/gather.cuh"

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

struct ColumnTile {
  static constexpr int Channels = 32, Lanes = 8;  // a warp reads 32 channels of one pixel
  static constexpr int BlockRows = 1, BlockCols = Channels, Stages = 1, Threads = Channels * Lanes;
  static constexpr int SharedBytes = Threads * int(sizeof(float)), BlocksPerSm = 4;
};

struct ColumnShared {
  float sum[ColumnTile::Lanes][ColumnTile::Channels];
};

// Grid: (channel tiles, ranges).
template <class T>
__device__ inline void columns(const ColumnArgs& a) {
  ColumnShared& s = shared_memory<ColumnShared>();
  const int lane = threadIdx.x / ColumnTile::Channels, column = threadIdx.x % ColumnTile::Channels;
  const int channel = blockIdx.x * ColumnTile::Channels + column;
  const long long first = (long long)blockIdx.y * a.range, past = first + a.range;
  const long long end = past < a.pixels ? past : a.pixels;
  float sum = 0.0f;
  if (channel < a.channels)
    for (long long p = first + lane; p < end; p += ColumnTile::Lanes)
      sum += to_f32(static_cast<const T*>(a.dy)[p * a.channels + channel]);
  s.sum[lane][column] = sum;
  __syncthreads();
  if (lane != 0 || channel >= a.channels) return;
  for (int k = 1; k < ColumnTile::Lanes; ++k) sum += s.sum[k][column];
  a.partial[(long long)blockIdx.y * a.channels + channel] = sum;
}

}  // namespace conv2d

EXPORT(conv2d_reduce_f32, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<float>)
EXPORT(conv2d_reduce_bf16, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<bf16>)
EXPORT(conv2d_reduce_f16, conv2d::ReduceTile, conv2d::ReduceArgs, conv2d::reduce<f16>)
EXPORT(conv2d_columns_f32, conv2d::ColumnTile, conv2d::ColumnArgs, conv2d::columns<float>)
EXPORT(conv2d_columns_bf16, conv2d::ColumnTile, conv2d::ColumnArgs, conv2d::columns<bf16>)
EXPORT(conv2d_columns_f16, conv2d::ColumnTile, conv2d::ColumnArgs, conv2d::columns<f16>)
