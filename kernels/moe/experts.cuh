// One product an expert on its own rows: which expert and tile a block has, as an ordinary product's arguments.
#pragma once
#include "common/element.cuh"
#include "gemm/product.cuh"

namespace moe {

template <class T>
struct ExpertArgs {
  const T* left;      // rows (R, K); backward: dy (R, N)
  const T* right;     // w (E, N, K); of its gradient: rows (R, K)
  const T* bias;      // (E, N), forward only
  T* out;             // y (R, N), drows (R, K), dw (E, N, K)
  const int* offset;  // (E + 1): first row of each expert
  int experts, n, k;
  int accumulate;
};

// A block's product, and the first row and column of its tile; no rows left: m is 0.
template <class T>
struct Group {
  gemm::ProductArgs<T> product;
  int row0, col0;
};

// out, left and right of expert `e`, whose rows are [first, first + count).
template <class T, gemm::Pass P>
__device__ inline gemm::ProductArgs<T> product_of(const ExpertArgs<T>& a, int e, int first, int count) {
  const long long weight = (long long)e * a.n * a.k, left_cols = P == gemm::Pass::Forward ? a.k : a.n;
  gemm::ProductArgs<T> p = {};
  p.left = a.left + first * left_cols;
  p.alpha = 1.0f, p.splits = 1, p.accumulate = a.accumulate;
  if constexpr (P == gemm::Pass::Forward) {
    p.right = a.right + weight, p.bias = a.bias + (long long)e * a.n;
    p.out = a.out + (long long)first * a.n;
    p.m = count, p.n = a.n, p.k = a.k;
  } else if constexpr (P == gemm::Pass::Input) {
    p.right = a.right + weight, p.out = a.out + (long long)first * a.k;
    p.m = count, p.n = a.k, p.k = a.n;
  } else {
    p.right = a.right + (long long)first * a.k, p.out = a.out + weight;
    p.m = a.n, p.n = a.k, p.k = count;
  }
  p.left_pitch = p.m, p.right_pitch = p.n;  // dense, whichever way they lie
  return p;
}

// Rows: blockIdx.x counts tiles of BlockM rows, every expert starting a new one (at most R / BlockM + E);
// blockIdx.y tiles of columns. Weight: blockIdx.z is the expert.
template <class T, gemm::Pass P, class Tile>
__device__ inline Group<T> group(const ExpertArgs<T>& a) {
  const int col0 = int(blockIdx.y) * Tile::BlockN;
  if constexpr (P == gemm::Pass::Weight) {
    const int e = int(blockIdx.z), first = a.offset[e];
    return {product_of<T, P>(a, e, first, a.offset[e + 1] - first), int(blockIdx.x) * Tile::BlockM, col0};
  } else {
    int tile = int(blockIdx.x), first = 0;
    for (int e = 0; e < a.experts; ++e) {
      const int last = a.offset[e + 1], tiles = (last - first + Tile::BlockM - 1) / Tile::BlockM;
      if (tile < tiles) return {product_of<T, P>(a, e, first, last - first), tile * Tile::BlockM, col0};
      tile -= tiles;
      first = last;
    }
    return {};
  }
}

}  // namespace moe
