// group normalisation backward in one launch, Hopper.   As backward.cu, but x and dy are read once.
// Work: 12 flop an element, 50 with SiLU.  Bytes: x, dy and dx once.   x, dy, dx: (N, rows, C)
// SDXL N=2, 64x64, C=640, bf16: 10.5 MB a tensor -> 7 us at 4.3 TB/s and one launch instead of three:
// memory-bound.
// Tile: as forward_sm90.cu with two tensors of data and 256 threads a block (the constants of 8 channels are
// 40 registers). Where gamma or beta is trained each block also writes its sums per channel; `total` adds
// them.
// Determinism: bitwise, blocks are added in order of rank.   Requires: kernels/group_norm/cluster.rs says
// which shapes.
// Measured: see NOTES.md.
#include "group_norm/cluster.cuh"

namespace group_norm {

// The sums of one half over the thread rows of this block, per channel, into its partial row.
template <class F>
__device__ inline void channel_sums(ClusterShared<F>& s, const Place<F>& p, const float (&values)[F::Vec],
                                    float* out) {
  __syncthreads();  // earlier sums may still be read
  if (p.row < p.end) {
#pragma unroll
    for (int i = 0; i < F::Vec; ++i) s.part[threadIdx.x * F::Vec + i] = values[i];
  }
  __syncthreads();
  for (int k = int(threadIdx.x); k < p.tile_c; k += F::Threads) {
    float sum = 0.0f;
    for (int r = 0; r < p.thread_rows; ++r) sum += s.part[r * p.tile_c + k];
    out[p.column - p.tile_column + k] = sum;
  }
}

template <class F, bool Silu>
__device__ inline void backward_rows(const Args<typename F::T>& a, const Place<F>& p, ClusterShared<F>& s) {
  using T = typename F::T;
  constexpr int Vec = F::Vec;
  const Affine<Vec> affine(a, p.column, blockIdx.y);
  const uint4 *xs = s.data, *dys = s.data + F::DataBytes / 32;
  const auto dz_of = [&](float x, float dy, int i) {
    return Silu ? through_silu<T>(dy, affine.z(i, x)) : dy;
  };
  float scaled[Vec] = {}, plain[Vec] = {};
  p.for_rows([&](int, int index) {
    const Lane<Vec> x = held<F>(xs, index), dy = held<F>(dys, index);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float dz = dz_of(x.v[i], dy.v[i], i);
      scaled[i] += dz * (x.v[i] - affine.mean[i]);
      plain[i] += dz;
    }
  });
#pragma unroll
  for (int i = 0; i < Vec; ++i) scaled[i] *= affine.rstd[i];
  if (a.partial) {
    float* out = a.partial + (size_t(blockIdx.y) * kCluster + ptx::cluster_rank()) * 2 * a.walk.c;
    channel_sums(s, p, scaled, out);
    channel_sums(s, p, plain, out + a.walk.c);
  }
  const int width = a.walk.c / a.groups;
  const float count = float(a.walk.rows) * float(width);
  const Lane<Vec> gamma = columns::load_parameters<Vec>(a.gamma + p.column);
#pragma unroll
  for (int i = 0; i < Vec; ++i) {
    scaled[i] *= gamma.v[i];
    plain[i] *= gamma.v[i];
  }
  cluster_sum(s, p, 0, width, plain, count, s.first);
  cluster_sum(s, p, 1, width, scaled, count, s.second);
  float constant[Vec], slope[Vec];  // dx = dz scale - ((x - mean) slope + constant)
#pragma unroll
  for (int i = 0; i < Vec; ++i) {
    const int group = (p.tile_column + i) / width;
    constant[i] = affine.rstd[i] * s.first[group];
    slope[i] = affine.rstd[i] * affine.rstd[i] * s.second[group];
  }
  const auto to = rows_of(a, a.out, p.column, blockIdx.y);
  if (!to.at) return;
  const bool accumulate = accumulates(a, to.second);
  p.for_rows([&](int row, int index) {
    const Lane<Vec> x = held<F>(xs, index), dy = held<F>(dys, index);
    T* out = to.row(row);
    Lane<Vec> dx;
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float dz = dz_of(x.v[i], dy.v[i], i);
      dx.v[i] = dz * affine.scale[i] - ((x.v[i] - affine.mean[i]) * slope[i] + constant[i]);
    }
    if (accumulate) {
      const Lane<Vec> old = load<Vec>(out);
#pragma unroll
      for (int i = 0; i < Vec; ++i) dx.v[i] += old.v[i];
    }
    store(out, dx);
  });
}

template <class F>
__device__ inline void backward_cluster(const Args<typename F::T>& a) {
  auto& s = shared_memory<ClusterShared<F>>();
  const Place<F> p(a);
  const auto x = rows_of(a, a.x, p.column, blockIdx.y);
  copy_rows(p, x.at, x.c, s.data);
  copy_rows(p, a.dy + p.base, a.walk.c, s.data + F::DataBytes / 32);  // the second half
  wait_for_data();
  if (a.silu) {
    backward_rows<F, true>(a, p, s);
  } else {
    backward_rows<F, false>(a, p, s);
  }
}

template <class T>
using Small = Held<T, kSmallBytes, 256>;
template <class T>
using Large = Held<T, kLargeBytes, 256>;

}  // namespace group_norm

EXPORT(group_norm_backward_small_f32, group_norm::ClusterTile<group_norm::Small<float>>,
       group_norm::Args<float>, group_norm::backward_cluster<group_norm::Small<float>>)
EXPORT(group_norm_backward_small_bf16, group_norm::ClusterTile<group_norm::Small<bf16>>,
       group_norm::Args<bf16>, group_norm::backward_cluster<group_norm::Small<bf16>>)
EXPORT(group_norm_backward_small_f16, group_norm::ClusterTile<group_norm::Small<f16>>,
       group_norm::Args<f16>, group_norm::backward_cluster<group_norm::Small<f16>>)
EXPORT(group_norm_backward_large_f32, group_norm::ClusterTile<group_norm::Large<float>>,
       group_norm::Args<float>, group_norm::backward_cluster<group_norm::Large<float>>)
EXPORT(group_norm_backward_large_bf16, group_norm::ClusterTile<group_norm::Large<bf16>>,
       group_norm::Args<bf16>, group_norm::backward_cluster<group_norm::Large<bf16>>)
EXPORT(group_norm_backward_large_f16, group_norm::ClusterTile<group_norm::Large<f16>>,
       group_norm::Args<f16>, group_norm::backward_cluster<group_norm::Large<f16>>)
