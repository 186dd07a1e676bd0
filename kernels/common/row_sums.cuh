// Sums over rows of a matrix: a block adds up some rows of 512 bytes of columns, always in the same order.
#pragma once
#include "common/elementwise.cuh"
#include "common/shared.cuh"

namespace row_sums {

using elementwise::Count;

template <class T>
struct Tile {
  static constexpr int Vec = elementwise::PerAccess<T>;
  static constexpr int Lanes = 32, Groups = 8;  // a warp reads 512 consecutive bytes of a row
  static constexpr int Threads = Lanes * Groups;
  static constexpr int BlockRows = Groups, BlockCols = Lanes * Vec, Stages = 1;
  static constexpr int SharedBytes = Groups * BlockCols * 4, BlocksPerSm = 4;
  static_assert(BlockCols <= Threads, "one thread adds up one column in the end");
};

template <class T>
struct Matrix {
  const T* at;  // (.., cols)
  unsigned cols;
};

// Vec columns from `col` of one row; those past the end are 0.
template <class T>
__device__ inline Lane<Tile<T>::Vec> columns(const Matrix<T>& x, Count row, unsigned col, bool whole) {
  constexpr int Vec = Tile<T>::Vec;
  const T* from = x.at + row * x.cols + col;
  if (whole) return load_once<Vec>(from);
  Lane<Vec> v = {};
  for (int k = 0; k < Vec; ++k)
    if (col + k < x.cols) v.v[k] = to_f32(from[k]);
  return v;
}

// The sum of one column, in the thread that has it.
struct Sum {
  bool inside;
  unsigned col;
  float value;
};

// Rows [first, last) of the columns of block blockIdx.x.
template <class T>
__device__ inline Sum sum(const Matrix<T>& x, Count first, Count last) {
  using Tile = row_sums::Tile<T>;
  struct Shared { float part[Tile::Groups][Tile::BlockCols]; };
  auto& s = shared_memory<Shared>();
  const unsigned lane = threadIdx.x % Tile::Lanes, group = threadIdx.x / Tile::Lanes;
  const unsigned col = blockIdx.x * Tile::BlockCols + lane * Tile::Vec;
  const bool whole = x.cols % Tile::Vec == 0 && elementwise::aligned(x.at);
  Lane<Tile::Vec> sum = {};
  for (Count r = first + group; col < x.cols && r < last; r += Tile::Groups) {
    const auto v = columns<T>(x, r, col, whole);
    for (int k = 0; k < Tile::Vec; ++k) sum.v[k] += v.v[k];
  }
  for (int k = 0; k < Tile::Vec; ++k) s.part[group][lane * Tile::Vec + k] = sum.v[k];
  __syncthreads();
  const unsigned own = blockIdx.x * Tile::BlockCols + threadIdx.x;
  if (threadIdx.x >= Tile::BlockCols || own >= x.cols) return {false, own, 0.0f};
  float total = 0.0f;
  for (int g = 0; g < Tile::Groups; ++g) total += s.part[g][threadIdx.x];
  return {true, own, total};
}

}  // namespace row_sums
