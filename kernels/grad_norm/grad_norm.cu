// squares of a gradient, f32.   partial[b] = sum of (g mean / scale)^2 over the elements of block b, in f64.
// g: (Len)
// Work: 3 flop an element, one of them in f64.  Bytes: 4*Len.  SDXL adapters, Len=46.4 M: 186 MB -> 43 us at
// 4.3 TB/s.
// Tile: 256 threads, 4 x 16 bytes in flight each; at most 528 blocks, which go on by the size of the grid.
// f64: the sum is exact to f32's last digit whatever the order, so it agrees with the CPU's.
// Determinism: bitwise, the grid depends on Len only.   Requires: g on 16 bytes.   Measured: see NOTES.md.
#include "common/block_sum.cuh"
#include "common/exact.cuh"
#include "common/vector.cuh"

namespace grad_norm {

struct Args {
  const float* grad;  // (len)
  double* partial;    // (gridDim.x)
  unsigned long long len;
  const float* scale; // (1): what the loss was multiplied by, a power of two; null for 1
  float mean;         // 1 / passes that were added up
  int unused;
};

constexpr int kThreads = 256, kVec = 4, kBatch = 4;
constexpr int kBlock = kThreads * kVec * kBatch;

__device__ inline double square(float g, float unit) {
  const double x = double(exact::mul(g, unit));
  return x * x;
}

__device__ inline void squares(const Args& a) {
  const float unit = a.scale ? exact::div(a.mean, *a.scale) : a.mean;
  double sum = 0.0;
  for (size_t from = size_t(blockIdx.x) * kBlock; from < a.len; from += size_t(gridDim.x) * kBlock) {
    const size_t first = from + threadIdx.x * kVec;
    if (from + kBlock <= a.len) {
      Lane<kVec> g[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) g[i] = load_once<kVec>(a.grad + first + i * kThreads * kVec);
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum += square(g[i].v[k], unit);
    } else {
      for (size_t i = from + threadIdx.x; i < a.len; i += kThreads) sum += square(a.grad[i], unit);
    }
  }
  sum = block_sum(shared_memory<BlockSum<kThreads>>(), sum);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = sum;
}

struct Tile {
  static constexpr int BlockRows = 1, BlockCols = kBlock, Stages = kBatch;
  static constexpr int Threads = kThreads, SharedBytes = sizeof(BlockSum<kThreads>), BlocksPerSm = 4;
};

}  // namespace grad_norm

EXPORT(grad_norm_squares, grad_norm::Tile, grad_norm::Args, grad_norm::squares)
