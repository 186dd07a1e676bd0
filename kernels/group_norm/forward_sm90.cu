// group normalisation forward in one launch, Hopper.   As forward.cu, but x is read once.   x, y: (N, rows,
// C)
// Work: 7 flop an element, 20 with SiLU.  Bytes: x once, y once.
// SDXL N=2, 128x128, C=320, bf16: 21 MB a tensor -> 10 us at 4.3 TB/s and one launch instead of three:
// memory-bound.
// Tile: a cluster of 8 blocks holds whole groups of one sample, rows split over the blocks; 512 threads a
// block, cp.async of all its data at once; 88 KiB of data with two blocks an SM (_small) or 184 KiB with one
// (_large).
// Statistics: the mean, then squared distances from it, both over data in shared memory; sums go to all
// blocks of the cluster through distributed shared memory as two floats each (48 bits).
// Determinism: bitwise, blocks are added in order of rank.   Requires: kernels/group_norm/cluster.rs says
// which shapes.
// Measured: see NOTES.md.
#include "group_norm/cluster.cuh"

namespace group_norm {

template <class F, bool Silu>
__device__ inline void write_rows(const Args<typename F::T>& a, const Place<F>& p,
                                  const ClusterShared<F>& s, int width) {
  using T = typename F::T;
  constexpr int Vec = F::Vec;
  const Lane<Vec> gamma = columns::load_parameters<Vec>(a.gamma + p.column);
  const Lane<Vec> shift = columns::load_parameters<Vec>(a.beta + p.column);
  float mean[Vec], scale[Vec];
#pragma unroll
  for (int i = 0; i < Vec; ++i) {
    const int group = (p.tile_column + i) / width;
    mean[i] = s.first[group];
    scale[i] = s.second[group] * gamma.v[i];
  }
  p.for_rows([&](int row, int index) {
    Lane<Vec> y = held<F>(s.data, index);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float z = (y.v[i] - mean[i]) * scale[i] + shift.v[i];
      y.v[i] = Silu ? silu<T>(z) : z;
    }
    store(a.out[0] + p.base + size_t(row) * a.walk.c, y);
  });
}

template <class F>
__device__ inline void forward_cluster(const Args<typename F::T>& a) {
  constexpr int Vec = F::Vec;
  auto& s = shared_memory<ClusterShared<F>>();
  const Place<F> p(a);
  const int width = a.walk.c / a.groups, groups = p.tile_c / width;
  const auto x = rows_of(a, a.x, p.column, blockIdx.y);
  copy_rows(p, x.at, x.c, s.data);
  wait_for_data();
  const float count = float(a.walk.rows) * float(width);
  float sum[Vec] = {}, square[Vec] = {};
  p.for_rows([&](int, int index) {
    const Lane<Vec> x = held<F>(s.data, index);
#pragma unroll
    for (int i = 0; i < Vec; ++i) sum[i] += x.v[i];
  });
  cluster_sum(s, p, 0, width, sum, count, s.first);
  float mean[Vec];
#pragma unroll
  for (int i = 0; i < Vec; ++i) mean[i] = s.first[(p.tile_column + i) / width];
  p.for_rows([&](int, int index) {
    const Lane<Vec> x = held<F>(s.data, index);
#pragma unroll
    for (int i = 0; i < Vec; ++i) {
      const float d = x.v[i] - mean[i];
      square[i] += d * d;
    }
  });
  cluster_sum(s, p, 1, width, square, count, s.second);
  if (int(threadIdx.x) < groups) {
    const float rstd = exact::div(1.0f, exact::sqrt(s.second[threadIdx.x] + a.eps));
    s.second[threadIdx.x] = rstd;
    if (ptx::cluster_rank() == 0) {
      const size_t group = size_t(blockIdx.y) * a.groups + int(blockIdx.x) / kCluster * groups + threadIdx.x;
      a.mean[group] = s.first[threadIdx.x];
      a.rstd[group] = rstd;
    }
  }
  __syncthreads();
  if (p.row >= p.end) return;
  if (a.silu) {
    write_rows<F, true>(a, p, s, width);
  } else {
    write_rows<F, false>(a, p, s, width);
  }
}

template <class T>
using Small = Held<T, kSmallBytes, 512>;
template <class T>
using Large = Held<T, kLargeBytes, 512>;

}  // namespace group_norm

EXPORT(group_norm_forward_small_f32, group_norm::ClusterTile<group_norm::Small<float>>,
       group_norm::Args<float>, group_norm::forward_cluster<group_norm::Small<float>>)
EXPORT(group_norm_forward_small_bf16, group_norm::ClusterTile<group_norm::Small<bf16>>,
       group_norm::Args<bf16>, group_norm::forward_cluster<group_norm::Small<bf16>>)
EXPORT(group_norm_forward_small_f16, group_norm::ClusterTile<group_norm::Small<f16>>,
       group_norm::Args<f16>, group_norm::forward_cluster<group_norm::Small<f16>>)
EXPORT(group_norm_forward_large_f32, group_norm::ClusterTile<group_norm::Large<float>>,
       group_norm::Args<float>, group_norm::forward_cluster<group_norm::Large<float>>)
EXPORT(group_norm_forward_large_bf16, group_norm::ClusterTile<group_norm::Large<bf16>>,
       group_norm::Args<bf16>, group_norm::forward_cluster<group_norm::Large<bf16>>)
EXPORT(group_norm_forward_large_f16, group_norm::ClusterTile<group_norm::Large<f16>>,
       group_norm::Args<f16>, group_norm::forward_cluster<group_norm::Large<f16>>)
