// What the forward and backward kernels on ordinary pointers are told; the twin of cuda/args.rs.
#pragma once
#include "common/export.cuh"

namespace attention {

constexpr float kLog2e = 1.4426950408889634f;  // exp(x) = exp2(x * log2 e): one FFMA
constexpr float kLn2 = 0.6931471805599453f;

template <class T>
struct ForwardArgs {
  const T *q, *k, *v;
  T* out;
  float* lse;  // (N, Lq, H), natural logarithm
  int len_q, len_k, heads, head_dim;
  float scale;
  int causal;
};

template <class T>
struct BackwardArgs {
  const T *q, *k, *v, *d_out;  // v: null when only dv is wanted
  T *dq, *dk, *dv;             // null: not wanted
  const float* lse;            // (N, Lq, H), natural logarithm
  const float *lse2, *delta;   // (N, H, stat_len) of prepare.cu
  float* partial;              // (splits, N, H, 2, pad_k, D): dK, dV; where splits > 1
  int len_q, len_k, heads, head_dim, stat_len, pad_k;
  float scale;
  int causal;
  int add_q, add_k, add_v;  // 1: the gradient is added to the old content
  int splits;               // parts of the queries that dK and dV are made from, 1: stored directly
};

// Rows of one head of a (N, L, H, D) tensor, from some row on.
template <class T>
struct Rows {
  T* first;          // channel 0
  long long stride;  // elements to the next row
  int left;          // rows that exist
  __device__ Rows from(int row) const { return {first + row * stride, stride, left - row}; }
};

template <class T>
__device__ inline Rows<T> head_rows(T* x, int sample, int head, int len, int heads, int head_dim) {
  const long long stride = (long long)heads * head_dim;
  return {x + sample * (len * stride) + (long long)head * head_dim, stride, len};
}

}  // namespace attention
