// What the forward and backward kernels on ordinary pointers are told; the twin of cuda/args.rs.
#pragma once
#include "common/element.cuh"
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

// A query of one head, for a bias: its row (sample L + i) H + head, its head, its position.
struct Query {
  long long row;
  int head, i;
  __device__ Query(int sample, int head_, int i_, int len, int heads)
      : row(((long long)sample * len + i_) * heads + head_), head(head_), i(i_) {}
};

// Nothing is added to the scores.
struct NoBias {
  static constexpr bool Biased = false;
  __device__ float at(Query, int) const { return 0.0f; }
};

// What bias.rs adds to the scores among the positions of a grid.
template <class T>
struct GridBias {
  static constexpr bool Biased = true;
  const T *first, *second;  // rel_h (N, L, H, 2 rows - 1), rel_w (.., 2 cols - 1); or the table (H, rows cols), null
  float* bins;              // backward: (N, L, H, bins) sums of dS, or null
  int rows, cols;

  __device__ int bin_count() const { return second ? 2 * (rows + cols) - 2 : rows * cols; }

  __device__ float at(Query q, int key) const {
    const int y = q.i / cols, x = q.i - y * cols, v = key / cols, u = key - v * cols;
    if (second)
      return to_f32(first[q.row * (2 * rows - 1) + y - v + rows - 1]) +
             to_f32(second[q.row * (2 * cols - 1) + x - u + cols - 1]);
    return to_f32(first[(long long)q.head * rows * cols + abs(y - v) * cols + abs(x - u)]);
  }

  // Adds dS of one pair to the query's own sums.
  __device__ void collect(Query q, int key, float ds) const {
    const int y = q.i / cols, x = q.i - y * cols, v = key / cols, u = key - v * cols;
    float* own = bins + q.row * bin_count();
    if (second) {
      own[y - v + rows - 1] += ds;
      own[2 * rows - 1 + x - u + cols - 1] += ds;
    } else {
      own[abs(y - v) * cols + abs(x - u)] += ds;
    }
  }
};

template <class T>
struct BiasedForwardArgs {
  ForwardArgs<T> plain;
  GridBias<T> bias;
};

template <class T>
struct BiasedBackwardArgs {
  BackwardArgs<T> plain;
  GridBias<T> bias;
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
