// Operands of layer normalisation, and a row held in the registers of one warp.
#pragma once
#include "common/columns.cuh"
#include "common/exact.cuh"
#include "common/warp_sum.cuh"

namespace layer_norm {

using columns::kThreads;
using columns::Narrow;
using columns::Own;
using columns::Sums;
using columns::Walk;
using columns::Wide;

template <class T>
struct Args {
  const T* x;      // (rows, C)
  const T* dy;     // (rows, C)
  const T* gamma;  // (C)
  const T* beta;   // (C)
  float* mean;     // (rows)
  float* rstd;     // (rows)
  float* partial;  // (row blocks, 2, C)
  T* out;          // (rows, C): y, or the gradient of x
  Walk walk;       // of the sums over rows; c and rows always
  int accumulate;  // add to the old gradient
  float eps;
};

constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;  // rows of one block
constexpr int kRowVec = 1280;   // the widest row of SDXL: 40 numbers a lane
constexpr int kRowScalar = 256;  // 8 numbers a lane; scalar accesses of more would spill

// One row: lane l has the vectors l, l + 32, ... of it.
template <int Vec>
struct Row {
  static constexpr int Vectors = (Vec > 1 ? kRowVec : kRowScalar) / (kWarp * Vec);
  Lane<Vec> v[Vectors];
};

// f(vector index, its first column) for the vectors of this lane.
template <int Vec, class F>
__device__ inline void for_vectors(int c, F f) {
  const int lane = int(threadIdx.x) % kWarp;
#pragma unroll
  for (int j = 0; j < Row<Vec>::Vectors; ++j) {
    const int column = (j * kWarp + lane) * Vec;
    if (column < c) f(j, column);
  }
}

// f(number) for the numbers of this lane.
template <int Vec, class F>
__device__ inline void for_numbers(int c, Row<Vec>& row, F f) {
  for_vectors<Vec>(c, [&](int j, int) {
#pragma unroll
    for (int i = 0; i < Vec; ++i) f(row.v[j].v[i]);
  });
}

template <int Vec, class T>
__device__ inline void load_row(const T* p, int c, Row<Vec>& row) {
  for_vectors<Vec>(c, [&](int j, int column) { row.v[j] = load_once<Vec>(p + column); });
}

// 1 / sqrt(variance + eps), every operation rounded to nearest.
__device__ inline float inverse_root(float variance, float eps) {
  return exact::div(1.0f, exact::sqrt(variance + eps));
}

}  // namespace layer_norm
