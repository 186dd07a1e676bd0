// mean cosine of pairs of rows, f32 bf16 f16.   y = sum_n c_n / N, c = a.b / (|a| |b|), norms at least kEps; with u = a / |a|,
// v = b / |b|: da = dy (v - c u) / (N |a|), db = dy (u - c v) / (N |b|), 0 for a row no longer than kEps.   a, b: (N, C), y: (1) f32.
// Work: 6 flop an element forward, 16 backward.  Bytes: a and b once; backward da and db too (its second read hits L1).
// N=4, C=2048, bf16: 33 KB: a launch each.
// Tile: 256 threads, a row a warp; forward one block for all rows, backward 8 rows a block.
// Determinism: bitwise: f64 sums over a fixed tree, no atomics.   Requires: nothing; C not a multiple of 16 bytes and odd
// addresses go element by element.
#include "common/block_sum.cuh"
#include "common/elementwise.cuh"
#include "common/exact.cuh"
#include "common/warp_sum.cuh"

namespace cosine {

using namespace elementwise;

constexpr double kEps = 1e-8;  // EPS of mod.rs
constexpr int kThreads = 256, kLanes = 32, kWarps = kThreads / kLanes;

template <int Shared>
struct RowTile {
  static constexpr int Threads = kThreads;
  static constexpr int BlockRows = kWarps, BlockCols = 1, Stages = 1;
  static constexpr int SharedBytes = Shared, BlocksPerSm = 4;
};
using Sums = BlockSum<kThreads>;
using SumTile = RowTile<int(sizeof(Sums))>;

template <class T>
struct Args {
  const T* a;
  const T* b;
  const float* dy;  // (1), backward only
  float* y;         // (1), forward only
  T* target[2];     // da, db
  unsigned rows, cols;
  Mode mode[2];
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.cols % PerAccess<T> == 0 && aligned(a.a, a.b, a.target[0], a.target[1]);
}

// body.operator()<Vec>(column) for the columns of a row, spread over the lanes of a warp.
template <int Vec, class Body>
__device__ inline void for_columns(unsigned cols, bool whole, const Body& body) {
  const unsigned lane = unsigned(ptx::lane_id());
  if (whole) {
    for (unsigned c = lane * Vec; c < cols; c += kLanes * Vec) body.template operator()<Vec>(c);
  } else {
    for (unsigned c = lane; c < cols; c += kLanes) body.template operator()<1>(c);
  }
}

// What one pair of rows has in common; every lane gets the same bits.
struct Pair {
  float a, b;            // guarded lengths
  bool long_a, long_b;   // longer than the guard
  double cosine;
};

template <class T>
__device__ inline Pair pair(const Args<T>& args, Count row) {
  const T *a = args.a + row * args.cols, *b = args.b + row * args.cols;
  double aa = 0.0, bb = 0.0, ab = 0.0;
  for_columns<PerAccess<T>>(args.cols, whole(args), [&]<int Vec>(unsigned c) {
    const Lane<Vec> x = load<Vec>(a + c), y = load<Vec>(b + c);
#pragma unroll
    for (int k = 0; k < Vec; ++k) {
      const double dx = x.v[k], dy = y.v[k];
      aa += dx * dx;
      bb += dy * dy;
      ab += dx * dy;
    }
  });
  const double length_a = sqrt(warp_sum(aa)), length_b = sqrt(warp_sum(bb));
  const double guarded_a = fmax(length_a, kEps), guarded_b = fmax(length_b, kEps);
  return {float(guarded_a), float(guarded_b), length_a > kEps, length_b > kEps,
          warp_sum(ab) / (guarded_a * guarded_b)};
}

// One block.
template <class T>
__device__ inline void forward(const Args<T>& a) {
  double sum = 0.0;
  for (Count row = unsigned(ptx::warp_id()); row < a.rows; row += kWarps) sum += pair(a, row).cosine;
  const double total = block_sum<kThreads>(shared_memory<Sums>(), ptx::lane_id() == 0 ? sum : 0.0);
  if (threadIdx.x == 0) *a.y = float(total / double(a.rows));
}

// Grid: rows / kWarps. Both targets may be the same buffer: a thread writes the first before it reads the second.
template <class T>
__device__ inline void backward(const Args<T>& a) {
  const Count row = Count(blockIdx.x) * kWarps + unsigned(ptx::warp_id());
  if (row >= a.rows) return;  // whole warps; there is no block barrier
  const Pair p = pair(a, row);
  const float share = exact::div(*a.dy, float(a.rows)), cosine = float(p.cosine);
  const float factor_a = p.long_a ? exact::div(share, p.a) : 0.0f;
  const float factor_b = p.long_b ? exact::div(share, p.b) : 0.0f;
  for_columns<PerAccess<T>>(a.cols, whole(a), [&]<int Vec>(unsigned c) {
    const Count at = row * a.cols + c;
    Lane<Vec> x = load<Vec>(a.a + at), y = load<Vec>(a.b + at);
#pragma unroll
    for (int k = 0; k < Vec; ++k) {
      const float u = exact::div(x.v[k], p.a), v = exact::div(y.v[k], p.b);
      x.v[k] = factor_a * (v - cosine * u);
      y.v[k] = factor_b * (u - cosine * v);
    }
    write<T, Vec>(a.target[0] + at, x, a.mode[0]);
    write<T, Vec>(a.target[1] + at, y, a.mode[1]);
  });
}

}  // namespace cosine

EXPORT(cosine_forward_f32, cosine::SumTile, cosine::Args<float>, cosine::forward<float>)
EXPORT(cosine_forward_bf16, cosine::SumTile, cosine::Args<bf16>, cosine::forward<bf16>)
EXPORT(cosine_forward_f16, cosine::SumTile, cosine::Args<f16>, cosine::forward<f16>)
EXPORT(cosine_backward_f32, cosine::RowTile<0>, cosine::Args<float>, cosine::backward<float>)
EXPORT(cosine_backward_bf16, cosine::RowTile<0>, cosine::Args<bf16>, cosine::backward<bf16>)
EXPORT(cosine_backward_f16, cosine::RowTile<0>, cosine::Args<f16>, cosine::backward<f16>)
