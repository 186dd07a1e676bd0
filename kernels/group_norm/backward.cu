// group normalisation backward.   With h = (x - mean) rstd, dz = dy or dy times SiLU's derivative at z = h
// gamma + beta:
// dx = rstd (gamma dz - mean(gamma dz) - h mean(gamma dz h)), dgamma = sum dz h, dbeta = sum dz.   x, dy, dx:
// (N, rows, C)
// Work: 12 flop an element, 50 with SiLU.  Bytes: x and dy twice (again from L2 where they fit), dx once.
// SDXL N=2, 128x128, C=320, bf16: 21 MB a tensor -> 15 us from memory and 5 to 10 us from L2 at 4.3 TB/s:
// memory-bound.
// Tile: as forward.cu. The sums over rows go through partial rows per channel, which serve the group means
// (weighted by gamma) and, where the affine parameters are trained, their gradients; frozen parameters cost
// nothing more.
// Launches: sums, means (one block a group), input (dx); or sums, total (dgamma, dbeta); or all four.
// Determinism: bitwise, no atomics; last sums in f64.   Requires: as forward.cu.   Measured: see NOTES.md.
#include "group_norm/group_norm.cuh"

namespace group_norm {

constexpr int kSumBatch = 2;    // of x and dy: 4 x 16 bytes in flight a thread
constexpr int kInputBatch = 2;

template <int Vec>
struct Pair {
  Lane<Vec> x, dy;
};

template <class F, bool Silu>
__device__ inline void sum_rows(const Args<typename F::T>& a, const Own<F::Vec>& own, Sums<F::Vec>& s) {
  using T = typename F::T;
  constexpr int Vec = F::Vec;
  const Affine<Vec> affine(a, own.column, blockIdx.z);
  const auto from = rows_of(a, a.x, own.column, blockIdx.z);
  const T* dys = a.dy + columns::sample_offset(a.walk) + own.column;
  const auto load_row = [&](int row) {
    return Pair<Vec>{load<Vec>(from.row(row)), load<Vec>(dys + size_t(row) * a.walk.c)};
  };
  float scaled[Vec] = {}, plain[Vec] = {};
  columns::for_rows<kSumBatch>(own, load_row, [&](int, const Pair<Vec>& p) {
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float x = p.x.v[i], dy = p.dy.v[i];
      const float dz = Silu ? through_silu<T>(dy, affine.z(i, x)) : dy;
      scaled[i] += dz * (x - affine.mean[i]);
      plain[i] += dz;
    }
  });
#pragma unroll
  for (int i = 0; i < Vec; ++i) {
    s.a[threadIdx.x * Vec + i] = scaled[i] * affine.rstd[i];
    s.b[threadIdx.x * Vec + i] = plain[i];
  }
}

// sum dz h and sum dz of every column of one block of rows -> partial.
template <class F>
__device__ inline void sums(const Args<typename F::T>& a) {
  auto& s = shared_memory<Sums<F::Vec>>();
  const Own<F::Vec> own(a.walk);
  if (own.some) {
    if (a.silu) {
      sum_rows<F, true>(a, own, s);
    } else {
      sum_rows<F, false>(a, own, s);
    }
  }
  __syncthreads();
  columns::write_sums(s, a.walk, a.partial);
}

// sum dy of every column of one block of rows: dbeta alone, without SiLU, where x is not kept.
template <class F>
__device__ inline void shift_sums(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  auto& s = shared_memory<Sums<Vec>>();
  const Own<Vec> own(a.walk);
  if (own.some) {
    const auto* dy = a.dy + columns::sample_offset(a.walk) + own.column;  // (rows, Vec) stride C
    const auto load_row = [&](int row) { return load_once<Vec>(dy + size_t(row) * a.walk.c); };
    float plain[Vec] = {};
    columns::for_rows<2 * kSumBatch>(own, load_row, [&](int, const Lane<Vec>& v) {
#pragma unroll
      for (int i = 0; i < Vec; ++i) plain[i] += v.v[i];
    });
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      s.a[threadIdx.x * Vec + i] = 0.0f;
      s.b[threadIdx.x * Vec + i] = plain[i];
    }
  }
  __syncthreads();
  columns::write_sums(s, a.walk, a.partial);
}

// mean(gamma dz) and mean(gamma dz h) of one group; grid: (groups, N, 1).
template <class T>
__device__ inline void means(const Args<T>& a) {
  auto& s = shared_memory<BlockSum<kThreads>>();
  const Walk& w = a.walk;
  const int width = w.c / a.groups, entries = a.blocks * width, column = int(blockIdx.x) * width;
  const float* partial = a.partial + size_t(blockIdx.y) * a.blocks * 2 * w.c + column;
  double scaled = 0.0, plain = 0.0;
  for (int e = int(threadIdx.x); e < entries; e += kThreads) {
    const float* p = partial + size_t(e / width) * 2 * w.c + e % width;
    const double gamma = double(to_f32(a.gamma[column + e % width]));
    scaled += gamma * double(p[0]);
    plain += gamma * double(p[w.c]);
  }
  const double elements = double(w.rows) * double(width);
  const double mean_plain = block_sum(s, plain) / elements;
  const double mean_scaled = block_sum(s, scaled) / elements;
  if (threadIdx.x != 0) return;
  float* out = a.means + (size_t(blockIdx.y) * a.groups + blockIdx.x) * 2;
  out[0] = float(mean_plain);
  out[1] = float(mean_scaled);
}

template <class F, bool Silu>
__device__ inline void input_rows(const Args<typename F::T>& a, const Own<F::Vec>& own) {
  using T = typename F::T;
  constexpr int Vec = F::Vec;
  const auto to = rows_of(a, a.out, own.column, blockIdx.z);
  if (!to.at) return;
  const Affine<Vec> affine(a, own.column, blockIdx.z);
  float constant[Vec], slope[Vec];  // dx = dz scale - ((x - mean) slope + constant)
#pragma unroll
  for (int i = 0; i < Vec; ++i) {
    const float* m = a.means + (size_t(blockIdx.z) * a.groups + affine.group[i]) * 2;
    constant[i] = affine.rstd[i] * m[0];
    slope[i] = affine.rstd[i] * affine.rstd[i] * m[1];
  }
  const auto from = rows_of(a, a.x, own.column, blockIdx.z);
  const T* dys = a.dy + columns::sample_offset(a.walk) + own.column;
  const auto load_row = [&](int row) {
    return Pair<Vec>{load_once<Vec>(from.row(row)), load_once<Vec>(dys + size_t(row) * a.walk.c)};
  };
  const bool accumulate = accumulates(a, to.second);
  columns::for_rows<kInputBatch>(own, load_row, [&](int row, const Pair<Vec>& p) {
    T* out = to.row(row);
    Lane<Vec> dx;
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float x = p.x.v[i], dy = p.dy.v[i];
      const float dz = Silu ? through_silu<T>(dy, affine.z(i, x)) : dy;
      dx.v[i] = dz * affine.scale[i] - ((x - affine.mean[i]) * slope[i] + constant[i]);
    }
    if (accumulate) {
      const Lane<Vec> old = load<Vec>(out);
#pragma unroll
      for (int i = 0; i < Vec; ++i) dx.v[i] += old.v[i];
    }
    store(out, dx);
  });
}

// dx from x, dy, the statistics and the means.
template <class F>
__device__ inline void input(const Args<typename F::T>& a) {
  const Own<F::Vec> own(a.walk);
  if (!own.some) return;
  if (a.silu) {
    input_rows<F, true>(a, own);
  } else {
    input_rows<F, false>(a, own);
  }
}

template <class F>
using SumsTile = columns::Tile<int(sizeof(Sums<F::Vec>)), 2>;
using MeansTile = columns::Tile<int(sizeof(BlockSum<kThreads>)), 4>;
using InputTile = columns::Tile<0, 2>;

}  // namespace group_norm

EXPORT(group_norm_sums_vec_f32, group_norm::SumsTile<group_norm::Wide<float>>,
       group_norm::Args<float>, group_norm::sums<group_norm::Wide<float>>)
EXPORT(group_norm_sums_vec_bf16, group_norm::SumsTile<group_norm::Wide<bf16>>,
       group_norm::Args<bf16>, group_norm::sums<group_norm::Wide<bf16>>)
EXPORT(group_norm_sums_vec_f16, group_norm::SumsTile<group_norm::Wide<f16>>,
       group_norm::Args<f16>, group_norm::sums<group_norm::Wide<f16>>)
EXPORT(group_norm_sums_scalar_f32, group_norm::SumsTile<group_norm::Narrow<float>>,
       group_norm::Args<float>, group_norm::sums<group_norm::Narrow<float>>)
EXPORT(group_norm_sums_scalar_bf16, group_norm::SumsTile<group_norm::Narrow<bf16>>,
       group_norm::Args<bf16>, group_norm::sums<group_norm::Narrow<bf16>>)
EXPORT(group_norm_sums_scalar_f16, group_norm::SumsTile<group_norm::Narrow<f16>>,
       group_norm::Args<f16>, group_norm::sums<group_norm::Narrow<f16>>)

EXPORT(group_norm_shift_sums_f32, group_norm::SumsTile<group_norm::Narrow<float>>,
       group_norm::Args<float>, group_norm::shift_sums<group_norm::Narrow<float>>)
EXPORT(group_norm_shift_sums_bf16, group_norm::SumsTile<group_norm::Narrow<bf16>>,
       group_norm::Args<bf16>, group_norm::shift_sums<group_norm::Narrow<bf16>>)
EXPORT(group_norm_shift_sums_f16, group_norm::SumsTile<group_norm::Narrow<f16>>,
       group_norm::Args<f16>, group_norm::shift_sums<group_norm::Narrow<f16>>)

EXPORT(group_norm_means_f32, group_norm::MeansTile, group_norm::Args<float>, group_norm::means<float>)
EXPORT(group_norm_means_bf16, group_norm::MeansTile, group_norm::Args<bf16>, group_norm::means<bf16>)
EXPORT(group_norm_means_f16, group_norm::MeansTile, group_norm::Args<f16>, group_norm::means<f16>)

EXPORT(group_norm_total_f32, columns::TotalTile, columns::TotalArgs<float>, columns::total<float>)
EXPORT(group_norm_total_bf16, columns::TotalTile, columns::TotalArgs<bf16>, columns::total<bf16>)
EXPORT(group_norm_total_f16, columns::TotalTile, columns::TotalArgs<f16>, columns::total<f16>)

EXPORT(group_norm_input_vec_f32, group_norm::InputTile, group_norm::Args<float>,
       group_norm::input<group_norm::Wide<float>>)
EXPORT(group_norm_input_vec_bf16, group_norm::InputTile, group_norm::Args<bf16>,
       group_norm::input<group_norm::Wide<bf16>>)
EXPORT(group_norm_input_vec_f16, group_norm::InputTile, group_norm::Args<f16>,
       group_norm::input<group_norm::Wide<f16>>)
EXPORT(group_norm_input_scalar_f32, group_norm::InputTile, group_norm::Args<float>,
       group_norm::input<group_norm::Narrow<float>>)
EXPORT(group_norm_input_scalar_bf16, group_norm::InputTile, group_norm::Args<bf16>,
       group_norm::input<group_norm::Narrow<bf16>>)
EXPORT(group_norm_input_scalar_f16, group_norm::InputTile, group_norm::Args<f16>,
       group_norm::input<group_norm::Narrow<f16>>)
