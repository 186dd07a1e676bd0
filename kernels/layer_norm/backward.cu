// layer normalisation backward.   With h = (x - mean) rstd and g = dy gamma: dx = rstd (g - mean(g) - h
// mean(g h)),
// dgamma = sum dy h, dbeta = sum dy over rows.   x, dy, dx: (rows, C)
// Work: 14 flop an element.  Bytes: x, dy, dx once; x and dy once more where gamma or beta is trained.
// SDXL N=2, 4096 tokens, C=640, bf16: 31 MB -> 7 us at 4.3 TB/s, 12 us with dgamma and dbeta: memory-bound.
// Tile: 256 threads; _warp: one row a warp, h and g in registers; _block: one row a block, for any width.
// sums: every thread adds rows of its columns, a block its thread rows; total adds the blocks in f64.
// Determinism: bitwise, no atomics.   Requires: as forward.cu.   Measured: see NOTES.md.
#include "layer_norm/layer_norm.cuh"

namespace layer_norm {

// dx of one row a warp.
template <class F>
__device__ inline void input_warp(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  const int c = a.walk.c;
  const long long row = (long long)blockIdx.x * kWarps + int(threadIdx.x) / kWarp;
  if (row >= a.walk.rows) return;  // whole warps; there is no block barrier
  Row<Vec> h, g;
  load_row<Vec>(a.x + row * c, c, h);
  load_row<Vec>(a.dy + row * c, c, g);
  const float mean = a.mean[row], rstd = a.rstd[row];
  float plain = 0.0f, scaled = 0.0f;
  for_vectors<Vec>(c, [&](int j, int column) {
    const Lane<Vec> gamma = columns::load_parameters<Vec>(a.gamma + column);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      float &hi = h.v[j].v[i], &gi = g.v[j].v[i];
      hi = (hi - mean) * rstd;
      gi *= gamma.v[i];
      plain += gi;
      scaled += gi * hi;
    }
  });
  const float mean_plain = warp_sum(plain) / float(c), mean_scaled = warp_sum(scaled) / float(c);
  auto* out = a.out + row * c;
  for_vectors<Vec>(c, [&](int j, int column) {
    Lane<Vec> dx;
#pragma unroll
    for (int i = 0; i < Vec; ++i)
      dx.v[i] = rstd * (g.v[j].v[i] - mean_plain - h.v[j].v[i] * mean_scaled);
    if (a.accumulate) {
      const Lane<Vec> old = load<Vec>(out + column);
#pragma unroll
      for (int i = 0; i < Vec; ++i) dx.v[i] += old.v[i];
    }
    store(out + column, dx);
  });
}

// dx of one row a block.
template <class T>
__device__ inline void input_block(const Args<T>& a) {
  auto& s = shared_memory<BlockSum<kThreads>>();
  const int c = a.walk.c, tid = int(threadIdx.x);
  const long long row = blockIdx.x;
  const T *x = a.x + row * c, *dy = a.dy + row * c;
  const float mean = a.mean[row], rstd = a.rstd[row];
  double plain = 0.0, scaled = 0.0;
  for (int i = tid; i < c; i += kThreads) {
    const float g = to_f32(dy[i]) * to_f32(a.gamma[i]);
    plain += double(g);
    scaled += double(g * ((to_f32(x[i]) - mean) * rstd));
  }
  const float mean_plain = float(block_sum(s, plain) / c);
  const float mean_scaled = float(block_sum(s, scaled) / c);
  for (int i = tid; i < c; i += kThreads) {
    const float g = to_f32(dy[i]) * to_f32(a.gamma[i]), h = (to_f32(x[i]) - mean) * rstd;
    const float dx = rstd * (g - mean_plain - h * mean_scaled);
    T* out = a.out + row * c + i;
    *out = from_f32<T>(a.accumulate ? dx + to_f32(*out) : dx);
  }
}

template <int Vec>
struct Held {
  Lane<Vec> x, dy;
  float mean, rstd;
};

// sum dy h and sum dy of every column of one block of rows -> partial; without x only the second.
template <class F, bool Scaled>
__device__ inline void sums(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  auto& s = shared_memory<Sums<Vec>>();
  const Own<Vec> own(a.walk);
  if (own.some) {
    const auto load_rows = [&](int row) {
      const size_t at = size_t(row) * a.walk.c + own.column;
      Held<Vec> held = {};
      held.dy = load_once<Vec>(a.dy + at);
      if constexpr (Scaled) {
        held.x = load_once<Vec>(a.x + at);
        held.mean = a.mean[row];
        held.rstd = a.rstd[row];
      }
      return held;
    };
    float scaled[Vec] = {}, plain[Vec] = {};
    columns::for_rows<2>(own, load_rows, [&](int, const Held<Vec>& held) {
#pragma unroll
      for (int i = 0; i < Vec; ++i) {
        const float dy = held.dy.v[i];
        if constexpr (Scaled) scaled[i] += dy * ((held.x.v[i] - held.mean) * held.rstd);
        plain[i] += dy;
      }
    });
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      s.a[threadIdx.x * Vec + i] = scaled[i];
      s.b[threadIdx.x * Vec + i] = plain[i];
    }
  }
  __syncthreads();
  columns::write_sums(s, a.walk, a.partial);
}

using WarpTile = columns::Tile<0, 2>;
using BlockTile = columns::Tile<int(sizeof(BlockSum<kThreads>)), 4>;
template <class F>
using SumsTile = columns::Tile<int(sizeof(Sums<F::Vec>)), 2>;

}  // namespace layer_norm

EXPORT(layer_norm_input_warp_vec_f32, layer_norm::WarpTile, layer_norm::Args<float>,
       layer_norm::input_warp<layer_norm::Wide<float>>)
EXPORT(layer_norm_input_warp_vec_bf16, layer_norm::WarpTile, layer_norm::Args<bf16>,
       layer_norm::input_warp<layer_norm::Wide<bf16>>)
EXPORT(layer_norm_input_warp_vec_f16, layer_norm::WarpTile, layer_norm::Args<f16>,
       layer_norm::input_warp<layer_norm::Wide<f16>>)
EXPORT(layer_norm_input_warp_scalar_f32, layer_norm::WarpTile, layer_norm::Args<float>,
       layer_norm::input_warp<layer_norm::Narrow<float>>)
EXPORT(layer_norm_input_warp_scalar_bf16, layer_norm::WarpTile, layer_norm::Args<bf16>,
       layer_norm::input_warp<layer_norm::Narrow<bf16>>)
EXPORT(layer_norm_input_warp_scalar_f16, layer_norm::WarpTile, layer_norm::Args<f16>,
       layer_norm::input_warp<layer_norm::Narrow<f16>>)
EXPORT(layer_norm_input_block_f32, layer_norm::BlockTile, layer_norm::Args<float>,
       layer_norm::input_block<float>)
EXPORT(layer_norm_input_block_bf16, layer_norm::BlockTile, layer_norm::Args<bf16>,
       layer_norm::input_block<bf16>)
EXPORT(layer_norm_input_block_f16, layer_norm::BlockTile, layer_norm::Args<f16>,
       layer_norm::input_block<f16>)

EXPORT(layer_norm_sums_vec_f32, layer_norm::SumsTile<layer_norm::Wide<float>>, layer_norm::Args<float>,
       (layer_norm::sums<layer_norm::Wide<float>, true>))
EXPORT(layer_norm_sums_vec_bf16, layer_norm::SumsTile<layer_norm::Wide<bf16>>, layer_norm::Args<bf16>,
       (layer_norm::sums<layer_norm::Wide<bf16>, true>))
EXPORT(layer_norm_sums_vec_f16, layer_norm::SumsTile<layer_norm::Wide<f16>>, layer_norm::Args<f16>,
       (layer_norm::sums<layer_norm::Wide<f16>, true>))
EXPORT(layer_norm_sums_scalar_f32, layer_norm::SumsTile<layer_norm::Narrow<float>>, layer_norm::Args<float>,
       (layer_norm::sums<layer_norm::Narrow<float>, true>))
EXPORT(layer_norm_sums_scalar_bf16, layer_norm::SumsTile<layer_norm::Narrow<bf16>>, layer_norm::Args<bf16>,
       (layer_norm::sums<layer_norm::Narrow<bf16>, true>))
EXPORT(layer_norm_sums_scalar_f16, layer_norm::SumsTile<layer_norm::Narrow<f16>>, layer_norm::Args<f16>,
       (layer_norm::sums<layer_norm::Narrow<f16>, true>))
EXPORT(layer_norm_shift_sums_f32, layer_norm::SumsTile<layer_norm::Narrow<float>>, layer_norm::Args<float>,
       (layer_norm::sums<layer_norm::Narrow<float>, false>))
EXPORT(layer_norm_shift_sums_bf16, layer_norm::SumsTile<layer_norm::Narrow<bf16>>, layer_norm::Args<bf16>,
       (layer_norm::sums<layer_norm::Narrow<bf16>, false>))
EXPORT(layer_norm_shift_sums_f16, layer_norm::SumsTile<layer_norm::Narrow<f16>>, layer_norm::Args<f16>,
       (layer_norm::sums<layer_norm::Narrow<f16>, false>))

EXPORT(layer_norm_total_f32, columns::TotalTile, columns::TotalArgs<float>, columns::total<float>)
EXPORT(layer_norm_total_bf16, columns::TotalTile, columns::TotalArgs<bf16>, columns::total<bf16>)
EXPORT(layer_norm_total_f16, columns::TotalTile, columns::TotalArgs<f16>, columns::total<f16>)
