// sums beside the products, f32, bf16, f16.   reduce: out = alpha sum_s parts[s] + bias (+ residual) (+ out);
// column sums (bias gradient): parts[c, n] = sum of x[i, n] over rows c of x, then reduce with one row.
// Work: one addition an element.  Bytes: reduce 4 splits M N + sizeof(T) M N; columns sizeof(T) M N read once.
// SDXL bf16: db of 4096 x 5120 reads 42 MB -> 10 us at 4.3 TB/s; reduce of 2 x 1024 x 1280 reads 10 MB from L2: 3 us.
// Tile: reduce 256 threads, one element each; columns 64 columns x 4 rows of threads.   Measured: see NOTES.md.
// Determinism: bitwise; partial sums are added in order.   Requires: nothing, tails masked.
#include "common/shared.cuh"
#include "gemm/product.cuh"

namespace linear {

template <class T>
__device__ inline void reduce(const gemm::ProductArgs<T>& a) {
  const long long len = (long long)a.m * a.n, at = (long long)blockIdx.x * FlatTile<1>::Threads + threadIdx.x;
  if (at >= len) return;
  float sum = 0.0f;
  for (int s = 0; s < a.splits; ++s) sum += a.parts[s * len + at];
  gemm::finish(a, at / a.n, int(at % a.n), sum);
}

template <class T>
struct ColumnArgs {
  const T* x;    // (M, N)
  float* parts;  // (chunks, N)
  int m, n;
};

struct ColumnTile {
  static constexpr int Cols = 64, Lanes = 4, Threads = Cols * Lanes;  // rows of a chunk are dealt to 4 lanes
  static constexpr int BlockRows = 256, BlockCols = Cols, Stages = 1, BlocksPerSm = 4;
  static constexpr int SharedBytes = Threads * int(sizeof(float));
};

struct ColumnShared {
  float part[ColumnTile::Lanes][ColumnTile::Cols];
};

// grid (column blocks, chunks of 256 rows)
template <class T>
__device__ inline void columns(const ColumnArgs<T>& a) {
  using Tile = ColumnTile;
  ColumnShared& s = shared_memory<ColumnShared>();
  const int c = int(threadIdx.x) % Tile::Cols, lane = int(threadIdx.x) / Tile::Cols;
  const int col = int(blockIdx.x) * Tile::Cols + c, row0 = int(blockIdx.y) * Tile::BlockRows;
  const int rows = min(Tile::BlockRows, a.m - row0);
  float sum = 0.0f;
  if (col < a.n)
    for (int r = lane; r < rows; r += Tile::Lanes) sum += to_f32(a.x[(long long)(row0 + r) * a.n + col]);
  s.part[lane][c] = sum;
  __syncthreads();
  if (lane > 0 || col >= a.n) return;
  for (int i = 1; i < Tile::Lanes; ++i) sum += s.part[i][c];
  a.parts[(long long)blockIdx.y * a.n + col] = sum;
}

}  // namespace linear

EXPORT(linear_reduce_f32, FlatTile<1>, gemm::ProductArgs<float>, linear::reduce<float>)
EXPORT(linear_reduce_bf16, FlatTile<1>, gemm::ProductArgs<bf16>, linear::reduce<bf16>)
EXPORT(linear_reduce_f16, FlatTile<1>, gemm::ProductArgs<f16>, linear::reduce<f16>)
EXPORT(linear_columns_f32, linear::ColumnTile, linear::ColumnArgs<float>, linear::columns<float>)
EXPORT(linear_columns_bf16, linear::ColumnTile, linear::ColumnArgs<bf16>, linear::columns<bf16>)
EXPORT(linear_columns_f16, linear::ColumnTile, linear::ColumnArgs<f16>, linear::columns<f16>)
