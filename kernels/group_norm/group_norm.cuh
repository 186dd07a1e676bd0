// Operands, per-column constants and SiLU that the passes of group normalisation share.
#pragma once
#include "common/columns.cuh"
#include "common/exact.cuh"
#include "common/math.cuh"

namespace group_norm {

using columns::kThreads;
using columns::Narrow;
using columns::Own;
using columns::Slots;
using columns::Sums;
using columns::Walk;
using columns::Wide;

template <class T>
struct Args {
  const T* x[2];    // (N, rows, split) and, where that is less than C, (N, rows, C - split): side by side
  const T* dy;      // (N, rows, C)
  const T* gamma;   // (C)
  const T* beta;    // (C)
  float* mean;      // (N, groups)
  float* rstd;      // (N, groups)
  float* partial;   // (N, row blocks, 2, C)
  float* means;     // (N, groups, 2): means of gamma dz and of gamma dz h
  T* out[2];        // y (N, rows, C) alone, or the gradients of x, null where not wanted
  Walk walk;
  int split;        // columns of the first part of x
  int groups;
  int blocks;       // row blocks of one sample
  int silu;         // y = z sigmoid(z) instead of z
  int accumulate[2];  // add to the old gradient
  float eps;
};

// The rows of one sample in that of two matrices side by side that has a column; from there on, null where there is no
// such matrix. All columns of a thread lie in one of them.
template <class P>
struct Rows {
  P at;
  int c;        // its columns
  bool second;  // which it is
  __device__ P row(int r) const { return at + size_t(r) * c; }
};

template <class T, class P>
__device__ inline Rows<P> rows_of(const Args<T>& a, P const (&both)[2], int column, unsigned sample) {
  const bool second = column >= a.split;
  const int c = second ? a.walk.c - a.split : a.split;
  P at = second ? both[1] : both[0];
  if (at) at += size_t(sample) * a.walk.rows * c + (second ? column - a.split : column);
  return {at, c, second};
}

template <class T>
__device__ inline bool accumulates(const Args<T>& a, bool second) {
  return (second ? a.accumulate[1] : a.accumulate[0]) != 0;
}

// 1 / (1 + e^-z). f32 by the accurate exponential; for 16-bit storage the special-function unit's 2 ulp do.
template <class T>
__device__ inline float sigmoid(float z) {
  if constexpr (sizeof(T) == 4) {
    return math::sigmoid(z);
  } else {
    return __fdividef(1.0f, 1.0f + __expf(-z));
  }
}

template <class T>
__device__ inline float silu(float z) {
  return z * sigmoid<T>(z);
}

// dy times the derivative of z sigmoid(z).
template <class T>
__device__ inline float through_silu(float dy, float z) {
  const float s = sigmoid<T>(z);
  return dy * s * (1.0f + z * (1.0f - s));
}

// z = (x - mean) scale + shift of the Vec columns of one thread.
template <int Vec>
struct Affine {
  float mean[Vec], rstd[Vec], scale[Vec], shift[Vec];
  int group[Vec];

  template <class T>
  __device__ Affine(const Args<T>& a, int column, unsigned sample) {
    const int width = a.walk.c / a.groups;
    const size_t first = size_t(sample) * a.groups;
    const Lane<Vec> gamma = columns::load_parameters<Vec>(a.gamma + column);
    Lane<Vec> beta = {};  // backward without SiLU does not need it
    if (a.beta) beta = columns::load_parameters<Vec>(a.beta + column);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      group[i] = (column + i) / width;
      mean[i] = a.mean[first + group[i]];
      rstd[i] = a.rstd[first + group[i]];
      scale[i] = rstd[i] * gamma.v[i];
      shift[i] = beta.v[i];
    }
  }
  __device__ float z(int i, float x) const { return (x - mean[i]) * scale[i] + shift[i]; }
};

}  // namespace group_norm
