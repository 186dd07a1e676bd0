// Idea: products with one narrow side (at most 128, an adapter's rank) on Hopper: bound by reading the wide operand once.
//
// project  out (M, N) = left (M, K) right: K is split over a cluster of 4 blocks, their sums are added through distributed
//          shared memory in block order: one launch, four times the blocks.
// grad     out = wide^T narrow, one or two products (an adapter's da and dup) side by side in a launch: the rows are split
//          over a cluster of 8, the sums added in the same way over the memory of the ring.
// MN-major operands of the narrow side lie in atoms of (64, 32), 64-byte swizzle; see tile_sm90.cuh.
#pragma once
#include "gemm/product.cuh"
#include "gemm/tile_sm90.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/convert.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace gemm {

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

// One product of `grad`.
struct alignas(64) GradSide {
  ptx::TensorMap wide;    // (parts rows, wide_cols), box (64, 64) MN-major
  ptx::TensorMap narrow;  // (rows, parts narrow_cols), box (64, 32) MN-major
  void* out;              // (parts, wide_cols, narrow_cols), or (narrow_cols, wide_cols) with `transposed`
  float alpha;
  int accumulate, transposed;
  int wide_cols, narrow_cols, rows;
  int tiles;  // of 128 wide columns, of one part
};

struct GradArgs {
  GradSide sides[2];
  alignas(64) int first;  // tiles of the first side, all parts; the others are the second's
};

// Narrow columns of the two sides, the wider one first.
template <int First_, int Second_>
struct GradTile {
  static constexpr int First = First_, Second = Second_;
  static constexpr int BlockM = 128, BlockN = First, Stages = BlockN <= 64 ? 4 : 3;  // wide columns, narrow columns
  static constexpr int Cluster = 8;                     // blocks that share a tile, each with an eighth of the rows
  static constexpr int Threads = 2 * kWarpgroup + 32;  // two warpgroups of 64 wide columns, one producer warp
  static constexpr int WideBytes = BlockM * kSlab * 2, NarrowBytes = BlockN * kSlab * 2;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, BlocksPerSm = 2;
  static constexpr int SharedBytes = Stages * (WideBytes + NarrowBytes) + 1024;
  static_assert(BlockN % kNarrowAtomN == 0 && BlockN <= 128, "whole atoms, 64 accumulators a thread");
  static_assert(Second % kNarrowAtomN == 0 && Second <= First, "the second side's slabs lie where the first's do");
  static_assert(SharedBytes * BlocksPerSm <= kSharedLimit, "the blocks do not fit in shared memory");
};

// How a block's partial sums lie: as the result's rows and columns do.
template <int BlockN, bool Transposed>
struct GradPart {
  static constexpr int Rows = Transposed ? BlockN : 128, Cols = Transposed ? 128 : BlockN;
  static constexpr int Pitch = Cols + (Transposed ? 4 : 8);  // a warp's stores hit all banks
  __device__ static inline int at(int wide, int narrow) {
    return Transposed ? narrow * Pitch + wide : wide * Pitch + narrow;
  }
};

template <class Tile>
struct GradShared {
  struct Slot {
    unsigned char wide[Tile::WideBytes];      // 2 atoms of (64, 64)
    unsigned char narrow[Tile::NarrowBytes];  // atoms of (64, 32)
  };
  union alignas(1024) {
    Slot ring[Tile::Stages];
    float part[Tile::BlockM * (Tile::BlockN + 8)];  // when the last slab is read
  };
  alignas(1024) uint64_t full[Tile::Stages];
  uint64_t empty[Tile::Stages];
};

// What one block does of a side: its tile, its range of rows.
struct GradUnit {
  int part, col0;
  Range own;
};

// One thread fills the ring.
template <class Tile, int BlockN>
__device__ inline void grad_produce(const GradSide& a, GradShared<Tile>& s, const GradUnit& u) {
  for (int k = 0; k < u.own.last - u.own.first; ++k) {
    const int slot = k % Tile::Stages, row = (u.own.first + k) * kSlab;
    ptx::mbarrier_wait(&s.empty[slot], (k / Tile::Stages & 1) ^ 1);
    ptx::mbarrier_expect_tx(&s.full[slot], Tile::WideBytes + BlockN * kSlab * 2);
    for (int j = 0; j < 2; ++j)
      ptx::tma_load_2d(s.ring[slot].wide + j * 8192, &a.wide, &s.full[slot], u.col0 + j * 64,
                       u.part * a.rows + row);
    for (int j = 0; j < BlockN / kNarrowAtomN; ++j)
      ptx::tma_load_2d(s.ring[slot].narrow + j * kNarrowAtomBytes, &a.narrow, &s.full[slot],
                       u.part * a.narrow_cols + j * kNarrowAtomN, row);
  }
}

template <class Tile, int BlockN, bool Transposed>
__device__ inline void grad_store(GradShared<Tile>& s, const float (&d)[BlockN / 2], int group, int t) {
  const int lane = t % 32, wide = group * 64 + t / 32 * 16 + lane / 4, narrow = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < BlockN / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      s.part[GradPart<BlockN, Transposed>::at(wide + e / 2 * 8, 8 * j + narrow + e % 2)] = d[4 * j + e];
}

// One warpgroup: the partial sums of 64 wide columns of the tile, at last over the ring.
template <class T, class Tile, int BlockN>
__device__ inline void grad_consume(const GradSide& a, GradShared<Tile>& s, const GradUnit& u, int group, int t) {
  float d[BlockN / 2] = {};
  for (int k = 0; k < u.own.last - u.own.first; ++k) {
    const int slot = k % Tile::Stages;
    const uint32_t wide = ptx::smem_address(s.ring[slot].wide) + group * 8192,
                   narrow = ptx::smem_address(s.ring[slot].narrow);
    ptx::mbarrier_wait(&s.full[slot], k / Tile::Stages & 1);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kSlab / kMmaK; ++i)
      ptx::wgmma_ss<T, BlockN, 1, 1>(
          d, ptx::wgmma_descriptor(wide + i * 2 * 1024, 8192, 1024, 128),
          ptx::wgmma_descriptor(narrow + i * 2 * kNarrowAtomGroup, kNarrowAtomBytes, kNarrowAtomGroup, 64),
          true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<0>();
    ptx::reg_fence(d);
    if (t == 0) ptx::mbarrier_arrive(&s.empty[slot]);
  }
  ptx::barrier_sync(1, 2 * kWarpgroup);  // every slab that was asked for has come, and both groups have read it
  if (a.transposed) grad_store<Tile, BlockN, true>(s, d, group, t);
  else grad_store<Tile, BlockN, false>(s, d, group, t);
}

// Adds this block's share of the tile's rows over all blocks and writes it.
template <class T, class Tile, int BlockN, bool Transposed>
__device__ inline void grad_join(const GradSide& a, GradShared<Tile>& s, const GradUnit& u, int rank) {
  using Part = GradPart<BlockN, Transposed>;
  constexpr int OwnRows = Part::Rows / Tile::Cluster, Quads = Part::Cols / 4;
  const int rows = Transposed ? a.narrow_cols : a.wide_cols, cols = Transposed ? a.wide_cols : a.narrow_cols;
  T* out = static_cast<T*>(a.out) + (long long)u.part * rows * cols;
  for (int i = int(threadIdx.x); i < OwnRows * Quads; i += Tile::Threads) {
    const int r = rank * OwnRows + i / Quads, c = i % Quads * 4;
    const int row = r + (Transposed ? 0 : u.col0), col = c + (Transposed ? u.col0 : 0);
    if (row >= rows || col >= cols) continue;
    float sums[4] = {};
#pragma unroll
    for (int q = 0; q < Tile::Cluster; ++q) {
      const float4 v = ptx::ld_cluster_v4(ptx::mapa(&s.part[r * Part::Pitch + c], q));
      sums[0] += v.x, sums[1] += v.y, sums[2] += v.z, sums[3] += v.w;
    }
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      if (col + e >= cols) break;  // of the columns there is an even number
      T* to = out + (long long)row * cols + col + e;
      float x = sums[e] * a.alpha, y = sums[e + 1] * a.alpha;
      if (a.accumulate) {
        const float2 f = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(to));
        x += f.x, y += f.y;
      }
      *reinterpret_cast<uint32_t*>(to) = ptx::pack<T>(x, y);
    }
  }
}

// Tile `tile` of one side.
template <class T, class Tile, int BlockN>
__device__ inline void grad_side(const GradSide& a, GradShared<Tile>& s, int tile) {
  const int tid = int(threadIdx.x), group = ptx::warp_uniform(tid / kWarpgroup), rank = int(ptx::cluster_rank());
  const GradUnit u = {tile / a.tiles, tile % a.tiles * Tile::BlockM,
                      range_of((a.rows + kSlab - 1) / kSlab, rank, Tile::Cluster)};
  if (group < 2) grad_consume<T, Tile, BlockN>(a, s, u, group, tid % kWarpgroup);
  else if (ptx::elect_one()) grad_produce<Tile, BlockN>(a, s, u);
  ptx::cluster_sync();
  if (a.transposed) grad_join<T, Tile, BlockN, true>(a, s, u, rank);
  else grad_join<T, Tile, BlockN, false>(a, s, u, rank);
  ptx::cluster_sync();  // our partial sums must outlive their readers
}

// grid (8 blocks a tile, one cluster): the first side's tiles, then the second's
template <class T, class Tile>
__device__ inline void grad(const GradArgs& a) {
  auto& s = shared_memory<GradShared<Tile>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used, the sums fit in the ring");
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::Stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], 2);
    }
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
  const int tile = int(blockIdx.x) / Tile::Cluster, second = tile >= a.first;
  if constexpr (Tile::First == Tile::Second)
    grad_side<T, Tile, Tile::First>(a.sides[second], s, tile - second * a.first);
  else if (second)
    grad_side<T, Tile, Tile::Second>(a.sides[1], s, tile - a.first);
  else
    grad_side<T, Tile, Tile::First>(a.sides[0], s, tile);
}

}  // namespace gemm
