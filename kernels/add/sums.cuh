// Sums over the rows of a matrix in two stages: partial sums of some rows a block, then their sum in order.
#pragma once
#include "common/elementwise.cuh"
#include "common/shared.cuh"

namespace add {

using namespace elementwise;

template <class T>
struct SumTile {
  static constexpr int Vec = PerAccess<T>;
  static constexpr int Lanes = 32, Groups = 8;  // a warp reads 512 consecutive bytes of a row
  static constexpr int Threads = Lanes * Groups;
  static constexpr int BlockRows = Groups, BlockCols = Lanes * Vec, Stages = 1;
  static constexpr int SharedBytes = Groups * BlockCols * 4, BlocksPerSm = 4;
  static_assert(BlockCols <= Threads, "one thread adds up one column in the end");
};

template <class T>
struct SumArgs {
  const T* dy;      // (N, rows, cols)
  float* partial;   // (N, gridDim.y, cols)
  unsigned rows, cols;
  unsigned part_rows;  // a block sums
  unsigned unused;
};

template <class T>
struct TotalArgs {
  const float* partial;  // (N, parts, cols)
  T* target;             // (N, cols)
  unsigned parts, cols;
  Mode mode;
  int unused;
};

// Vec columns from `col` of one row; those past the end are 0.
template <class T>
__device__ inline Lane<PerAccess<T>> columns(const T* row, unsigned col, unsigned cols, bool whole) {
  constexpr int Vec = PerAccess<T>;
  if (whole) return load_once<Vec>(row + col);
  Lane<Vec> x = {};
  for (int k = 0; k < Vec; ++k)
    if (col + k < cols) x.v[k] = to_f32(row[col + k]);
  return x;
}

// Grid: columns, parts of part_rows rows, samples.
template <class T>
__device__ inline void channel_sums(const SumArgs<T>& a) {
  using Tile = SumTile<T>;
  struct Shared { float sum[Tile::Groups][Tile::BlockCols]; };
  auto& s = shared_memory<Shared>();
  const unsigned lane = threadIdx.x % Tile::Lanes, group = threadIdx.x / Tile::Lanes;
  const unsigned col = blockIdx.x * Tile::BlockCols + lane * Tile::Vec;
  const unsigned first = blockIdx.y * a.part_rows, last = min(int(first + a.part_rows), int(a.rows));
  const T* sample = a.dy + Count(blockIdx.z) * a.rows * a.cols;
  const bool whole = a.cols % Tile::Vec == 0 && aligned(a.dy);
  Lane<Tile::Vec> sum = {};
  if (col < a.cols)
    for (unsigned r = first + group; r < last; r += Tile::Groups) {
      const auto x = columns<T>(sample + Count(r) * a.cols, col, a.cols, whole);
      for (int k = 0; k < Tile::Vec; ++k) sum.v[k] += x.v[k];
    }
  for (int k = 0; k < Tile::Vec; ++k) s.sum[group][lane * Tile::Vec + k] = sum.v[k];
  __syncthreads();
  const unsigned own = blockIdx.x * Tile::BlockCols + threadIdx.x;
  if (threadIdx.x >= Tile::BlockCols || own >= a.cols) return;
  float total = 0.0f;
  for (int g = 0; g < Tile::Groups; ++g) total += s.sum[g][threadIdx.x];
  a.partial[(Count(blockIdx.z) * gridDim.y + blockIdx.y) * a.cols + own] = total;
}

// Grid: columns, samples.
template <class T>
__device__ inline void channel_total(const TotalArgs<T>& a) {
  for_own<1>(a.cols, true, [&]<int Vec>(Count col) {
    const float* partial = a.partial + Count(blockIdx.y) * a.parts * a.cols + col;
    Lane<1> sum = {};
    for (unsigned p = 0; p < a.parts; ++p) sum.v[0] += partial[Count(p) * a.cols];
    write<T, 1>(a.target + Count(blockIdx.y) * a.cols + col, sum, a.mode);
  });
}

}  // namespace add
