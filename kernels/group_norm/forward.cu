// group normalisation forward.   x, y: (N, rows, C); x may lie in two parts side by side
// z = (x - mean) rstd gamma + beta, y = z or z sigmoid(z).
// Work: 7 flop an element, 20 with SiLU.  Bytes: x twice (again from L2 where it fits), y once.
// SDXL N=2, 128x128, C=320, bf16: 21 MB a tensor -> 10 us at 4.3 TB/s with the second reading from L2:
// memory-bound.
// Tile: 256 threads, Vec = 16 bytes of adjacent channels a thread; rows and column tiles: kernels/columns.rs.
// Statistics: a thread sums x and x^2 shifted by its own first value (no cancellation: the shift is a
// sample), a block merges its thread rows per channel (Chan et al. 1979), one block a group merges all blocks
// in f64.
// Three launches: statistics (whole chip), finish (one block a group over the small partial rows), apply.
// Determinism: bitwise, every sum in an order that the shape fixes.
// Requires: C % groups == 0; _vec: C % Vec == 0, of each part of x.   Measured: see NOTES.md.
#include "group_norm/group_norm.cuh"

namespace group_norm {

constexpr int kStatBatch = 4;  // 4 x 16 bytes in flight a thread: 48 KB an SM, more than it drains
constexpr int kApplyBatch = 4;

// Mean and summed squared distance of every column of one block of rows -> partial.
template <class F>
__device__ inline void statistics(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  auto& s = shared_memory<Sums<Vec>>();
  const Own<Vec> own(a.walk);
  if (own.some) {
    const auto x = rows_of(a, a.x, own.column, blockIdx.z);
    const auto load_row = [&](int row) { return load<Vec>(x.row(row)); };
    const Lane<Vec> origin = load_row(own.row);
    float sum[Vec] = {}, square[Vec] = {};
    columns::for_rows<kStatBatch>(own, load_row, [&](int, const Lane<Vec>& v) {
#pragma unroll
      for (int i = 0; i < Vec; ++i) {
        const float d = v.v[i] - origin.v[i];
        sum[i] += d;
        square[i] += d * d;
      }
    });
    const float count = float((own.end - own.row + own.step - 1) / own.step);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float mean = sum[i] / count;
      s.a[threadIdx.x * Vec + i] = origin.v[i] + mean;
      s.b[threadIdx.x * Vec + i] = fmaxf(square[i] - sum[i] * mean, 0.0f);
    }
  }
  __syncthreads();
  float* out = columns::partial_row(a.partial, a.walk);
  columns::for_columns<Vec>(a.walk, [&](const Slots& slot) {
    float mean = 0.0f, square = 0.0f, count = 0.0f;
    for (int r = 0; r < slot.used; ++r) {
      const float here = float(slot.count(r)), total = count + here;
      const float d = s.a[slot.at(r)] - mean, share = d * (here / total);
      mean += share;
      square += s.b[slot.at(r)] + d * share * count;
      count = total;
    }
    out[slot.column] = mean;
    out[a.walk.c + slot.column] = square;
  });
}

// Mean and rstd of one group from the channels of all blocks; grid: (groups, N, 1).
template <class T>
__device__ inline void finish(const Args<T>& a) {
  auto& s = shared_memory<BlockSum<kThreads>>();
  const Walk& w = a.walk;
  const int width = w.c / a.groups, entries = a.blocks * width;
  const float* partial = a.partial + size_t(blockIdx.y) * a.blocks * 2 * w.c + blockIdx.x * width;
  const auto count = [&](int block) { return double(min(w.block_rows, w.rows - block * w.block_rows)); };
  double sum = 0.0;
  for (int e = int(threadIdx.x); e < entries; e += kThreads) {
    const int block = e / width;
    sum += count(block) * double(partial[size_t(block) * 2 * w.c + e % width]);
  }
  const double elements = double(w.rows) * double(width);
  const double mean = block_sum(s, sum) / elements;
  double square = 0.0;
  for (int e = int(threadIdx.x); e < entries; e += kThreads) {
    const int block = e / width;
    const float* p = partial + size_t(block) * 2 * w.c + e % width;
    const double d = double(p[0]) - mean;
    square += double(p[w.c]) + d * d * count(block);
  }
  const double variance = block_sum(s, square) / elements;
  if (threadIdx.x != 0) return;
  const size_t group = size_t(blockIdx.y) * a.groups + blockIdx.x;
  a.mean[group] = float(mean);
  a.rstd[group] = exact::div(1.0f, exact::sqrt(float(variance + double(a.eps))));
}

template <class F, bool Silu>
__device__ inline void normalize(const Args<typename F::T>& a, const Own<F::Vec>& own) {
  using T = typename F::T;
  constexpr int Vec = F::Vec;
  const Affine<Vec> affine(a, own.column, blockIdx.z);
  const size_t first = columns::sample_offset(a.walk) + own.column;
  const auto x = rows_of(a, a.x, own.column, blockIdx.z);
  const auto load_row = [&](int row) { return load_once<Vec>(x.row(row)); };
  columns::for_rows<kApplyBatch>(own, load_row, [&](int row, const Lane<Vec>& v) {
    Lane<Vec> y;
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float z = affine.z(i, v.v[i]);
      y.v[i] = Silu ? silu<T>(z) : z;
    }
    store(a.out[0] + first + size_t(row) * a.walk.c, y);
  });
}

// y from x and the statistics.
template <class F>
__device__ inline void apply(const Args<typename F::T>& a) {
  const Own<F::Vec> own(a.walk);
  if (!own.some) return;
  if (a.silu) {
    normalize<F, true>(a, own);
  } else {
    normalize<F, false>(a, own);
  }
}

template <class F>
using StatisticsTile = columns::Tile<int(sizeof(Sums<F::Vec>)), 3>;
using FinishTile = columns::Tile<int(sizeof(BlockSum<kThreads>)), 4>;
using ApplyTile = columns::Tile<0, 3>;

}  // namespace group_norm

EXPORT(group_norm_statistics_vec_f32, group_norm::StatisticsTile<group_norm::Wide<float>>,
       group_norm::Args<float>, group_norm::statistics<group_norm::Wide<float>>)
EXPORT(group_norm_statistics_vec_bf16, group_norm::StatisticsTile<group_norm::Wide<bf16>>,
       group_norm::Args<bf16>, group_norm::statistics<group_norm::Wide<bf16>>)
EXPORT(group_norm_statistics_vec_f16, group_norm::StatisticsTile<group_norm::Wide<f16>>,
       group_norm::Args<f16>, group_norm::statistics<group_norm::Wide<f16>>)
EXPORT(group_norm_statistics_scalar_f32, group_norm::StatisticsTile<group_norm::Narrow<float>>,
       group_norm::Args<float>, group_norm::statistics<group_norm::Narrow<float>>)
EXPORT(group_norm_statistics_scalar_bf16, group_norm::StatisticsTile<group_norm::Narrow<bf16>>,
       group_norm::Args<bf16>, group_norm::statistics<group_norm::Narrow<bf16>>)
EXPORT(group_norm_statistics_scalar_f16, group_norm::StatisticsTile<group_norm::Narrow<f16>>,
       group_norm::Args<f16>, group_norm::statistics<group_norm::Narrow<f16>>)

EXPORT(group_norm_finish, group_norm::FinishTile, group_norm::Args<float>, group_norm::finish<float>)

EXPORT(group_norm_apply_vec_f32, group_norm::ApplyTile, group_norm::Args<float>,
       group_norm::apply<group_norm::Wide<float>>)
EXPORT(group_norm_apply_vec_bf16, group_norm::ApplyTile, group_norm::Args<bf16>,
       group_norm::apply<group_norm::Wide<bf16>>)
EXPORT(group_norm_apply_vec_f16, group_norm::ApplyTile, group_norm::Args<f16>,
       group_norm::apply<group_norm::Wide<f16>>)
EXPORT(group_norm_apply_scalar_f32, group_norm::ApplyTile, group_norm::Args<float>,
       group_norm::apply<group_norm::Narrow<float>>)
EXPORT(group_norm_apply_scalar_bf16, group_norm::ApplyTile, group_norm::Args<bf16>,
       group_norm::apply<group_norm::Narrow<bf16>>)
EXPORT(group_norm_apply_scalar_f16, group_norm::ApplyTile, group_norm::Args<f16>,
       group_norm::apply<group_norm::Narrow<f16>>)
