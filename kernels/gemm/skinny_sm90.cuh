// Idea: products with one narrow side (at most 128, an adapter's rank) on Hopper: bound by reading the wide operand once.
//
// project  out (M, N) = left (M, K) right: K is split over a cluster of 4 blocks, their sums are added through distributed
//          shared memory in block order: one launch, four times the blocks.
// grad     parts[split] = wide^T narrow over a range of rows; linear_reduce adds the ranges in order.
// MN-major operands of the narrow side lie in atoms of (64, 32), 64-byte swizzle; see tile_sm90.cuh.
#pragma once
#include "gemm/product.cuh"
#include "gemm/tile_sm90.cuh"
#include "ptx/cluster.cuh"
#include "ptx/convert.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace gemm {

constexpr int kNarrowAtomN = 32, kNarrowAtomBytes = kSlab * kNarrowAtomN * 2;
constexpr int kNarrowAtomGroup = 8 * kNarrowAtomN * 2;  // 8 K-rows of an atom

template <class T>
struct alignas(64) ProjectArgs {
  ptx::TensorMap left;   // box (64, 64) K-major
  ptx::TensorMap right;  // box (BlockN, 64) K-major, or (64, 32) MN-major
  const T* bias;         // (N) or null
  T* out;                // (M, N)
  float alpha;
  int m, n, k_slabs, accumulate;
  // of joined layers (gridDim.y parts): left (parts m, K), right (parts depth, N), out (m, pitch), part p from column p n
  int pitch, depth;
};

template <int BlockN_, bool RightMn_>
struct ProjectTile {
  static constexpr int BlockM = 64, BlockN = BlockN_, Stages = 4, Threads = kWarpgroup;
  static constexpr bool RightMn = RightMn_;
  static constexpr int Cluster = 4;         // blocks that share a tile, each with a quarter of K
  static constexpr int Pitch = BlockN + 8;  // of the partial sums: rows 8 banks apart
  static constexpr int LeftBytes = BlockM * kSlab * 2, RightBytes = BlockN * kSlab * 2;
  static constexpr int PartBytes = (BlockM * Pitch * 4 + 1023) / 1024 * 1024;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, BlocksPerSm = BlockN <= 64 ? 2 : 1;
  static constexpr int SharedBytes = Stages * (LeftBytes + RightBytes) + PartBytes + 1024;
  static_assert(BlockN % kNarrowAtomN == 0 && BlockN <= 128, "whole atoms, 64 accumulators a thread");
  static_assert(SharedBytes * BlocksPerSm <= kSharedLimit, "the blocks do not fit in shared memory");
};

template <class Tile>
struct ProjectShared {
  alignas(1024) unsigned char left[Tile::Stages][Tile::LeftBytes];
  alignas(1024) unsigned char right[Tile::Stages][Tile::RightBytes];
  alignas(1024) float part[Tile::BlockM][Tile::Pitch];
  alignas(1024) uint64_t full[Tile::Stages];
};

// One thread: slab k of this block's range into its slot.
template <class T, class Tile>
__device__ inline void fetch(const ProjectArgs<T>& a, ProjectShared<Tile>& s, int first, int k, int row0) {
  const int slot = k % Tile::Stages, k0 = (first + k) * kSlab;
  ptx::mbarrier_expect_tx(&s.full[slot], Tile::LeftBytes + Tile::RightBytes);
  const int part = int(blockIdx.y);
  ptx::tma_load_2d(s.left[slot], &a.left, &s.full[slot], k0, part * a.m + row0);
  if constexpr (!Tile::RightMn) {
    ptx::tma_load_2d(s.right[slot], &a.right, &s.full[slot], k0, 0);
  } else {
    for (int j = 0; j < Tile::BlockN / kNarrowAtomN; ++j)
      ptx::tma_load_2d(s.right[slot] + j * kNarrowAtomBytes, &a.right, &s.full[slot], j * kNarrowAtomN,
                       part * a.depth + k0);
  }
}

// This block's partial sums of the tile into its shared memory.
template <class T, class Tile>
__device__ inline void project_part(const ProjectArgs<T>& a, ProjectShared<Tile>& s, int first, int slabs,
                                    int row0) {
  const int t = int(threadIdx.x), lane = t % 32;
  const int warp = ptx::warp_uniform(t / 32);
  if (warp == 0 && ptx::elect_one())
    for (int k = 0; k < Tile::Stages && k < slabs; ++k) fetch<T, Tile>(a, s, first, k, row0);
  float d[Tile::BlockN / 2] = {};
  for (int k = 0; k < slabs; ++k) {
    const int slot = k % Tile::Stages;
    const uint32_t left = ptx::smem_address(s.left[slot]), right = ptx::smem_address(s.right[slot]);
    ptx::mbarrier_wait(&s.full[slot], k / Tile::Stages & 1);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kSlab / kMmaK; ++i) {
      const uint64_t b = Tile::RightMn ? ptx::wgmma_descriptor(right + i * 2 * kNarrowAtomGroup,
                                                               kNarrowAtomBytes, kNarrowAtomGroup, 64)
                                       : ptx::wgmma_descriptor(right + i * kMmaK * 2, 16, 1024, 128);
      ptx::wgmma_ss<T, Tile::BlockN, 0, Tile::RightMn>(
          d, ptx::wgmma_descriptor(left + i * kMmaK * 2, 16, 1024, 128), b, true);
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::reg_fence(d);
    if (warp == 0 && ptx::elect_one())
      if (k + Tile::Stages < slabs) fetch<T, Tile>(a, s, first, k + Tile::Stages, row0);
  }
  const int r = t / 32 * 16 + lane / 4, c = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < Tile::BlockN / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) s.part[r + e / 2 * 8][8 * j + c + e % 2] = d[4 * j + e];
}

// grid (4 blocks a tile of 64 rows, one cluster; parts)
template <class T, class Tile>
__device__ inline void project(const ProjectArgs<T>& a) {
  auto& s = shared_memory<ProjectShared<Tile>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used");
  const int t = int(threadIdx.x), rank = int(ptx::cluster_rank()),
            row0 = int(blockIdx.x) / Tile::Cluster * Tile::BlockM;
  const int first = a.k_slabs * rank / Tile::Cluster, slabs = a.k_slabs * (rank + 1) / Tile::Cluster - first;
  if (t == 0) {
    for (int i = 0; i < Tile::Stages; ++i) ptx::mbarrier_init(&s.full[i], 1);
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
  project_part<T, Tile>(a, s, first, slabs, row0);
  ptx::cluster_sync();
  constexpr int OwnRows = Tile::BlockM / Tile::Cluster, Pairs = Tile::BlockN / 2;  // each block adds 16 rows
  for (int i = t; i < OwnRows * Pairs; i += Tile::Threads) {
    const int row = rank * OwnRows + i / Pairs, col = i % Pairs * 2;
    float x = 0.0f, y = 0.0f;
#pragma unroll
    for (int q = 0; q < Tile::Cluster; ++q) {
      const uint32_t from = ptx::mapa(&s.part[row][col], q);
      x += ptx::ld_cluster_f32(from), y += ptx::ld_cluster_f32(from + 4);
    }
    if (row0 + row >= a.m || col >= a.n) continue;
    T* to = a.out + (long long)(row0 + row) * a.pitch + int(blockIdx.y) * a.n + col;
    x *= a.alpha, y *= a.alpha;
    const auto add = [&](const T* from) {
      const float2 f = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(from));
      x += f.x, y += f.y;
    };
    if (a.bias) add(a.bias + col);
    if (a.accumulate) add(to);
    *reinterpret_cast<uint32_t*>(to) = ptx::pack<T>(x, y);
  }
  ptx::cluster_sync();  // our partial sums must outlive their readers
}

struct alignas(64) GradArgs {
  ptx::TensorMap wide;    // (K, wide_cols), box (64, 64) MN-major
  ptx::TensorMap narrow;  // (K, narrow_cols), box (64, 32) MN-major
  float*
      parts;  // (splits, parts, wide_cols, narrow_cols), or (.., narrow_cols, wide_cols) when the narrow side is M
  int slabs, wide_cols, narrow_cols;
  int rows;  // of joined layers (gridDim.z parts): wide (parts rows, wide_cols), narrow (K, parts narrow_cols)
};

template <int BlockN_, bool NarrowM_>
struct GradTile {
  static constexpr int BlockM = 128, BlockN = BlockN_, Stages = 4;  // wide columns, narrow columns
  static constexpr bool NarrowM = NarrowM_;
  static constexpr int Threads = 2 * kWarpgroup + 32;  // two warpgroups of 64 wide columns, one producer warp
  static constexpr int WideBytes = BlockM * kSlab * 2, NarrowBytes = BlockN * kSlab * 2;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, BlocksPerSm = BlockN <= 64 ? 2 : 1;
  static constexpr int SharedBytes = Stages * (WideBytes + NarrowBytes) + 1024;
  static_assert(BlockN % kNarrowAtomN == 0 && BlockN <= 128, "whole atoms, 64 accumulators a thread");
  static_assert(SharedBytes * BlocksPerSm <= kSharedLimit, "the blocks do not fit in shared memory");
};

template <class Tile>
struct GradShared {
  alignas(1024) unsigned char wide[Tile::Stages][Tile::WideBytes];      // 2 atoms of (64, 64)
  alignas(1024) unsigned char narrow[Tile::Stages][Tile::NarrowBytes];  // atoms of (64, 32)
  alignas(1024) uint64_t full[Tile::Stages];
  uint64_t empty[Tile::Stages];
};

// One thread fills the ring.
template <class Tile>
__device__ inline void grad_produce(const GradArgs& a, GradShared<Tile>& s, Range own, int col0) {
  for (int k = 0; k < own.last - own.first; ++k) {
    const int slot = k % Tile::Stages, row = (own.first + k) * kSlab, part = int(blockIdx.z);
    ptx::mbarrier_wait(&s.empty[slot], (k / Tile::Stages & 1) ^ 1);
    ptx::mbarrier_expect_tx(&s.full[slot], Tile::WideBytes + Tile::NarrowBytes);
    for (int j = 0; j < 2; ++j)
      ptx::tma_load_2d(s.wide[slot] + j * 8192, &a.wide, &s.full[slot], col0 + j * 64, part * a.rows + row);
    for (int j = 0; j < Tile::BlockN / kNarrowAtomN; ++j)
      ptx::tma_load_2d(s.narrow[slot] + j * kNarrowAtomBytes, &a.narrow, &s.full[slot],
                       part * a.narrow_cols + j * kNarrowAtomN, row);
  }
}

// One warpgroup: 64 wide columns of the tile.
template <class T, class Tile>
__device__ inline void grad_consume(const GradArgs& a, GradShared<Tile>& s, Range own, int col0, int group,
                                    int t) {
  float d[Tile::BlockN / 2] = {};
  for (int k = 0; k < own.last - own.first; ++k) {
    const int slot = k % Tile::Stages;
    const uint32_t wide = ptx::smem_address(s.wide[slot]) + group * 8192,
                   narrow = ptx::smem_address(s.narrow[slot]);
    ptx::mbarrier_wait(&s.full[slot], k / Tile::Stages & 1);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kSlab / kMmaK; ++i)
      ptx::wgmma_ss<T, Tile::BlockN, 1, 1>(
          d, ptx::wgmma_descriptor(wide + i * 2 * 1024, 8192, 1024, 128),
          ptx::wgmma_descriptor(narrow + i * 2 * kNarrowAtomGroup, kNarrowAtomBytes, kNarrowAtomGroup, 64),
          true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::reg_fence(d);
    if (t == 0) ptx::mbarrier_arrive(&s.empty[slot]);
  }
  float* parts =
      a.parts + ((long long)blockIdx.y * gridDim.z + blockIdx.z) * a.wide_cols * a.narrow_cols;
  const int lane = t % 32, w0 = col0 + group * 64 + t / 32 * 16 + lane / 4, n0 = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < Tile::BlockN / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int w = w0 + e / 2 * 8, n = 8 * j + n0 + e % 2;
      if (w >= a.wide_cols || n >= a.narrow_cols) continue;
      parts[Tile::NarrowM ? (long long)n * a.wide_cols + w : (long long)w * a.narrow_cols + n] = d[4 * j + e];
    }
}

// grid (tiles of 128 wide columns, ranges of rows, parts)
template <class T, class Tile>
__device__ inline void grad(const GradArgs& a) {
  auto& s = shared_memory<GradShared<Tile>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used");
  const int tid = int(threadIdx.x), group = ptx::warp_uniform(tid / kWarpgroup),
            col0 = int(blockIdx.x) * Tile::BlockM;
  const Range own = range_of(a.slabs, int(blockIdx.y), int(gridDim.y));
  if (tid == 0) {
    for (int i = 0; i < Tile::Stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], 2);
    }
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
  if (group < 2) grad_consume<T, Tile>(a, s, own, col0, group, tid % kWarpgroup);
  else if (ptx::elect_one()) grad_produce<Tile>(a, s, own, col0);
}

}  // namespace gemm
