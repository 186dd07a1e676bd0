// Idea: one description of a matrix product that every pipeline computes; how its operands lie, what is added.
#pragma once
#include "common/element.cuh"

namespace gemm {

// How the operands of out (M, N) = left x right lie in memory; all are dense and row-major.
enum class Pass {
  Forward,  // left (M, K), right (N, K):  y = x w^T
  Input,    // left (M, K), right (K, N):  dx = dy w
  Weight    // left (K, M), right (K, N):  dw = dy^T x
};

// out = alpha (left right + t l) + bias + residual, and + out where it accumulates. 16-bit products keep f32 sums.
template <class T>
struct ProductArgs {
  const T* left;
  const T* right;
  const T* t;  // adapter: (M, rank); its right operand l lies as `right` does with K = rank
  const T* l;
  const T* bias;      // (N) or null
  const T* residual;  // (M, N) or null; may be `out`
  T* out;             // (M, N)
  float* parts;       // (splits, M, N): partial sums, when splits > 1
  float alpha;
  int m, n, k, rank;            // rank 0: no adapter
  int splits;                   // ranges of K; the adapter is part of the last one
  int accumulate;               // add to the old content of `out`
  int left_pitch, right_pitch;  // elements from one K-row of an MN-major operand to the next
};

// A sum becomes a result: rounded once, at the end.
template <class T>
__device__ inline void finish(const ProductArgs<T>& a, long long row, int col, float sum) {
  const long long at = row * a.n + col;
  float v = a.alpha * sum;
  if (a.bias) v += to_f32(a.bias[col]);
  if (a.residual) v += to_f32(a.residual[at]);
  if (a.accumulate) v += to_f32(a.out[at]);
  a.out[at] = from_f32<T>(v);
}

// The slabs of K that range `split` of `splits` owns.
struct Range {
  int first, last;
};
__device__ inline Range range_of(int slabs, int split, int splits) {
  return {int((long long)slabs * split / splits), int((long long)slabs * (split + 1) / splits)};
}

}  // namespace gemm
