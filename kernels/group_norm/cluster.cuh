// A cluster of blocks that holds some groups of one sample in its shared memory: every thread keeps the
// vectors that
// it copied, so that the data need no barrier; only sums go between threads and blocks.
#pragma once
#include "common/warp_sum.cuh"
#include "group_norm/group_norm.cuh"
#include "ptx/cluster.cuh"
#include "ptx/cp_async.cuh"

namespace group_norm {

constexpr int kCluster = 8;             // what every Hopper takes
constexpr int kTileGroups = 32;         // groups of one channel tile at most
constexpr int kSmallBytes = 88 << 10;   // of data a block: two blocks an SM
constexpr int kLargeBytes = 184 << 10;  // one block an SM

template <class T_, int DataBytes_, int Threads_>
struct Held {
  using T = T_;
  static constexpr int Vec = 16 / int(sizeof(T)), DataBytes = DataBytes_, Threads = Threads_;
};

template <class F>
struct ClusterShared {
  uint4 data[F::DataBytes / 16];                    // (tensors, rows of a thread, threads)
  float part[F::Threads * F::Vec];                  // (thread rows, tile columns)
  float slot[2][kCluster][kTileGroups][2];          // sums of two exchanges: high and low half
  float first[kTileGroups], second[kTileGroups];    // what they gave
};

template <class F>
struct ClusterTile {
  static constexpr int BlockRows = 1, BlockCols = 1, Stages = 1, Cluster = kCluster;
  static constexpr int Threads = F::Threads, SharedBytes = sizeof(ClusterShared<F>);
  static constexpr int BlocksPerSm = F::DataBytes == kSmallBytes ? 2 : 1;
  static_assert(BlocksPerSm * (SharedBytes + 1024) <= 228 << 10, "shared memory of an SM of Hopper");
};

// The place of a thread in a block of a cluster. grid: (kCluster * column tiles, N, 1); walk.block_rows =
// rows of one
// block, walk.tile_vecs = vectors of a tile of whole groups, which divides the channels.
template <class F>
struct Place {
  int column, tile_column;  // first of Vec channels, in the sample and in the tile
  int row, end, step;       // rows in the sample
  int thread_rows;          // that hold data in this block
  int tile_c;
  size_t base;              // of the sample, at `column`

  template <class A>
  __device__ explicit Place(const A& a) {
    const Walk& w = a.walk;
    const int tid = int(threadIdx.x), rank = int(blockIdx.x) % kCluster, tile = int(blockIdx.x) / kCluster;
    tile_c = w.tile_vecs * F::Vec;
    step = F::Threads / w.tile_vecs;
    tile_column = tid % w.tile_vecs * F::Vec;
    column = tile * tile_c + tile_column;
    const int first = rank * w.block_rows, last = min(first + w.block_rows, w.rows);
    thread_rows = max(0, min(step, last - first));
    row = first + tid / w.tile_vecs;
    end = tid / w.tile_vecs < step ? last : row;  // threads beyond the last whole row have none
    base = size_t(blockIdx.y) * w.rows * w.c + column;
  }
  // f(row, index of the row among this thread's)
  template <class Use>
  __device__ void for_rows(Use use) const {
    for (int r = row, i = 0; r < end; r += step, ++i) use(r, i);
  }
};

// The copies of this thread have arrived (it reads no others), and all blocks of the cluster run, so that their
// shared memory can be written.
__device__ inline void wait_for_data() {
  ptx::cluster_arrive();
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  ptx::cluster_wait();
}

// Starts the copies of this thread's vectors of one tensor with `c` columns, of which `x` is this thread's first in row 0.
template <class F>
__device__ inline void copy_rows(const Place<F>& p, const typename F::T* x, int c, uint4* to) {
  p.for_rows([&](int row, int i) {
    ptx::cp_async_16(to + i * F::Threads + threadIdx.x, x + size_t(row) * c);
  });
}

template <class F>
__device__ inline Lane<F::Vec> held(const uint4* data, int i) {
  return load<F::Vec>(reinterpret_cast<const typename F::T*>(data + i * F::Threads + threadIdx.x));
}

// The sum of `values` over all rows and the columns of each group, over the whole cluster, into out[group of
// the tile]
// in every block. `number` tells the two exchanges of a kernel apart.
template <class F>
__device__ inline void cluster_sum(ClusterShared<F>& s, const Place<F>& p, int number, int width,
                                   const float (&values)[F::Vec], float divisor, float* out) {
  const int warp = ptx::warp_id(), lane = ptx::lane_id(), groups = p.tile_c / width;
  __syncthreads();  // an earlier sum may still be read
  if (p.row < p.end) {
#pragma unroll
    for (int i = 0; i < F::Vec; ++i) s.part[threadIdx.x * F::Vec + i] = values[i];
  }
  __syncthreads();
  for (int g = warp; g < groups; g += F::Threads / 32) {
    double sum = 0.0;
    for (int e = lane; e < p.thread_rows * width; e += 32)
      sum += double(s.part[e / width * p.tile_c + g * width + e % width]);
    sum = warp_sum(sum);
    if (lane >= 2 * kCluster) continue;  // a lane for each block and half
    const float high = float(sum), half = lane % 2 ? float(sum - double(high)) : high;
    float* slot = &s.slot[number][ptx::cluster_rank()][g][lane % 2];
    ptx::st_cluster_f32(ptx::mapa(slot, unsigned(lane) / 2), half);
  }
  ptx::cluster_sync();
  if (int(threadIdx.x) < groups) {
    double sum = 0.0;
    for (int rank = 0; rank < kCluster; ++rank) {
      const float* slot = s.slot[number][rank][threadIdx.x];
      sum += double(slot[0]) + double(slot[1]);
    }
    out[threadIdx.x] = float(sum / double(divisor));
  }
  __syncthreads();
}

}  // namespace group_norm
