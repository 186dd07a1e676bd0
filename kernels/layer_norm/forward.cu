// layer normalisation forward.   y = (x - mean) rstd gamma + beta over the last axis.   x, y: (rows, C)
// Work: 8 flop an element.  Bytes: x and y once; mean and rstd 8 bytes a row.
// SDXL N=2, 4096 tokens, C=640, bf16: 21 MB in all -> 5 us at 4.3 TB/s: memory-bound.
// Tile: 256 threads; _warp: one row a warp, up to 1280 columns in registers, so x is read once; _block: one
// row a block, read three times (the second and third from L1/L2), for any width.
// Statistics: the mean first, then squared distances from it: nothing cancels.
// Determinism: bitwise, fixed trees of additions.   Requires: _warp_vec C % Vec == 0, C <= 1280.   Measured:
// NOTES.md.
#include "layer_norm/layer_norm.cuh"

namespace layer_norm {

// One row a warp.
template <class F>
__device__ inline void forward_warp(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  const int c = a.walk.c, lane = int(threadIdx.x) % kWarp;
  const long long row = (long long)blockIdx.x * kWarps + int(threadIdx.x) / kWarp;
  if (row >= a.walk.rows) return;  // whole warps; there is no block barrier
  Row<Vec> x;
  load_row<Vec>(a.x + row * c, c, x);
  float sum = 0.0f, square = 0.0f;
  for_numbers(c, x, [&](float v) { sum += v; });
  const float mean = warp_sum(sum) / float(c);
  for_numbers(c, x, [&](float v) { square += (v - mean) * (v - mean); });
  const float rstd = inverse_root(warp_sum(square) / float(c), a.eps);
  for_vectors<Vec>(c, [&](int j, int column) {
    const Lane<Vec> gamma = columns::load_parameters<Vec>(a.gamma + column);
    const Lane<Vec> beta = columns::load_parameters<Vec>(a.beta + column);
#pragma unroll
    for (int i = 0; i < Vec; ++i)
      x.v[j].v[i] = (x.v[j].v[i] - mean) * rstd * gamma.v[i] + beta.v[i];
    store(a.out + row * c + column, x.v[j]);
  });
  if (lane == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

// One row a block.
template <class T>
__device__ inline void forward_block(const Args<T>& a) {
  auto& s = shared_memory<BlockSum<kThreads>>();
  const int c = a.walk.c, tid = int(threadIdx.x);
  const long long row = blockIdx.x;
  const T* x = a.x + row * c;
  double sum = 0.0, square = 0.0;
  for (int i = tid; i < c; i += kThreads) sum += double(to_f32(x[i]));
  const float mean = float(block_sum(s, sum) / c);
  for (int i = tid; i < c; i += kThreads) {
    const float d = to_f32(x[i]) - mean;
    square += double(d * d);
  }
  const float rstd = inverse_root(float(block_sum(s, square) / c), a.eps);
  for (int i = tid; i < c; i += kThreads) {
    const float h = (to_f32(x[i]) - mean) * rstd;
    a.out[row * c + i] = from_f32<T>(h * to_f32(a.gamma[i]) + to_f32(a.beta[i]));
  }
  if (tid == 0) {
    a.mean[row] = mean;
    a.rstd[row] = rstd;
  }
}

using WarpTile = columns::Tile<0, 3>;
using BlockTile = columns::Tile<int(sizeof(BlockSum<kThreads>)), 4>;

}  // namespace layer_norm

EXPORT(layer_norm_forward_warp_vec_f32, layer_norm::WarpTile, layer_norm::Args<float>,
       layer_norm::forward_warp<layer_norm::Wide<float>>)
EXPORT(layer_norm_forward_warp_vec_bf16, layer_norm::WarpTile, layer_norm::Args<bf16>,
       layer_norm::forward_warp<layer_norm::Wide<bf16>>)
EXPORT(layer_norm_forward_warp_vec_f16, layer_norm::WarpTile, layer_norm::Args<f16>,
       layer_norm::forward_warp<layer_norm::Wide<f16>>)
EXPORT(layer_norm_forward_warp_scalar_f32, layer_norm::WarpTile, layer_norm::Args<float>,
       layer_norm::forward_warp<layer_norm::Narrow<float>>)
EXPORT(layer_norm_forward_warp_scalar_bf16, layer_norm::WarpTile, layer_norm::Args<bf16>,
       layer_norm::forward_warp<layer_norm::Narrow<bf16>>)
EXPORT(layer_norm_forward_warp_scalar_f16, layer_norm::WarpTile, layer_norm::Args<f16>,
       layer_norm::forward_warp<layer_norm::Narrow<f16>>)
EXPORT(layer_norm_forward_block_f32, layer_norm::BlockTile, layer_norm::Args<float>,
       layer_norm::forward_block<float>)
EXPORT(layer_norm_forward_block_bf16, layer_norm::BlockTile, layer_norm::Args<bf16>,
       layer_norm::forward_block<bf16>)
EXPORT(layer_norm_forward_block_f16, layer_norm::BlockTile, layer_norm::Args<f16>,
       layer_norm::forward_block<f16>)
