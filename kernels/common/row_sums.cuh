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

// Of body(row, first column), Vec numbers, over rows [first, last) of the columns of block blockIdx.x.
template <class T, class Body>
__device__ inline Sum sum_of(unsigned cols, Count first, Count last, const Body& body) {
  using Tile = row_sums::Tile<T>;
  struct Shared { float part[Tile::Groups][Tile::BlockCols]; };
  auto& s = shared_memory<Shared>();
  const unsigned lane = threadIdx.x % Tile::Lanes, group = threadIdx.x / Tile::Lanes;
  const unsigned col = blockIdx.x * Tile::BlockCols + lane * Tile::Vec;
  Lane<Tile::Vec> sum = {};
  for (Count r = first + group; col < cols && r < last; r += Tile::Groups) {
    const Lane<Tile::Vec> v = body(r, col);
    for (int k = 0; k < Tile::Vec; ++k) sum.v[k] += v.v[k];
  }
  for (int k = 0; k < Tile::Vec; ++k) s.part[group][lane * Tile::Vec + k] = sum.v[k];
  __syncthreads();
  const unsigned own = blockIdx.x * Tile::BlockCols + threadIdx.x;
  if (threadIdx.x >= Tile::BlockCols || own >= cols) return {false, own, 0.0f};
  float total = 0.0f;
  for (int g = 0; g < Tile::Groups; ++g) total += s.part[g][threadIdx.x];
  return {true, own, total};
}

// Of the rows of x.
template <class T>
__device__ inline Sum sum(const Matrix<T>& x, Count first, Count last) {
  const bool whole = x.cols % Tile<T>::Vec == 0 && elementwise::aligned(x.at);
  return sum_of<T>(x.cols, first, last, [&](Count row, unsigned col) { return columns<T>(x, row, col, whole); });
}

// The second stage, where the rows are summed in parts: their sums, in order.
template <class T>
struct TotalArgs {
  const float* partial;  // (N, parts, cols)
  T* target;             // (N, cols)
  unsigned parts, cols;
  elementwise::Mode mode;
  int unused;
};

// Grid: columns, samples.
template <class T>
__device__ inline void total(const TotalArgs<T>& a) {
  elementwise::for_own<1>(a.cols, true, [&]<int Vec>(Count col) {
    const float* partial = a.partial + Count(blockIdx.y) * a.parts * a.cols + col;
    Lane<1> sum = {};
    for (unsigned p = 0; p < a.parts; ++p) sum.v[0] += partial[Count(p) * a.cols];
    elementwise::write<T, 1>(a.target + Count(blockIdx.y) * a.cols + col, sum, a.mode);
  });
}

}  // namespace row_sums
