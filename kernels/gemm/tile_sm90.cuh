// Idea: the tile of a Hopper product: what a block computes, how its ring of slabs lies in shared memory, which unit it takes.
//
// A slab is 64 deep. Operands lie in shared memory as TMA writes them:
//   K-major  (rows, 64)  128-byte swizzle: rows of 128 bytes, groups of 8 rows (1024 bytes); 16 K-elements are 32 bytes.
//   MN-major (64, cols)  cut into atoms of 64 columns (128-byte swizzle) or 32 columns (64-byte swizzle); an atom is 64
//                        rows of 128 or 64 bytes; 16 K-rows are two groups of 8 rows. Tensors are read as they lie.
#pragma once
#include <stdint.h>

#include "common/element.cuh"
#include "common/shared.cuh"

namespace gemm {

constexpr int kSlab = 64;  // K-elements of a ring slot: 64 of 16 bits are one 128-byte swizzle row
constexpr int kMmaK = 16;  // K of one wgmma
constexpr int kWarpgroup = 128;
constexpr int kConsumers = 2;
constexpr int kNarrowAtomN = 32, kNarrowAtomBytes = kSlab * kNarrowAtomN * 2;  // of an MN-major adapter
constexpr int kNarrowAtomGroup = 8 * kNarrowAtomN * 2;                        // 8 K-rows of an atom
constexpr int kStoreRows =
    16;  // rows of a warp in a 64-row wgmma: the unit of staging, residual load and store
constexpr int kProducerRegs = 40, kConsumerRegs = 232;  // 128 * 40 + 256 * 232 = 64512 of 65536
constexpr int kSharedLimit = 227 * 1024;                // bytes a Hopper block may have
constexpr int kRasterGroup =
    8;  // cluster rows walked down before the next column: keeps a wave's weights in L2

// Both consumers on one tile, half its rows each | each on its own tile, the epilogue of one under the other's math.
enum class Order { Cooperative, PingPong };
// y = x w^T: both operands K-major | dx = dy w: w is MN-major | dw = dy^T x: both are MN-major.
enum class Layout { Forward, Input, Weight };

template <int BlockM_, int BlockN_, int Stages_, Layout Layout_ = Layout::Forward,
          Order Order_ = Order::Cooperative, int Cluster_ = 2, int Buffers_ = 2>
struct Tile {
  static constexpr int BlockM = BlockM_, BlockN = BlockN_, Stages = Stages_;
  static constexpr int Buffers = Buffers_;  // staging chunks of a warp
  // Blocks along M that share each slab of the right operand by multicast; of a convolution's weight gradient along N,
  // and the left operand.
  static constexpr int Cluster = Cluster_;
  static constexpr bool PingPong = Order_ == Order::PingPong;
  static constexpr bool LeftMn = Layout_ == Layout::Weight, RightMn = Layout_ != Layout::Forward;
  static constexpr int GroupM = PingPong ? BlockM : BlockM / kConsumers;  // rows of one consumer
  static constexpr int MmaM = GroupM / 64;
  static constexpr int AtomN = BlockN % 64 == 0 ? 64 : 32;  // columns of an MN-major swizzle atom
  static constexpr int AtomBytes = kSlab * AtomN * 2;
  static constexpr int LeftBytes = BlockM * kSlab * 2, RightBytes = BlockN * kSlab * 2;
  static constexpr int ChunkN = BlockN % 64 == 0 ? 64 : 32;  // columns staged at once
  static constexpr int ChunkSwizzle = ChunkN * 2;            // bytes
  static constexpr int Chunks = BlockN / ChunkN, ChunkBytes = kStoreRows * ChunkN * 2;
  // The record of export.cuh.
  static constexpr int Threads = (kConsumers + 1) * kWarpgroup, BlocksPerSm = 1;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN;
  static constexpr int BarrierBytes = 1024;
  static constexpr int SharedBytes =
      Stages * (LeftBytes + RightBytes) + kConsumers * 4 * Buffers * ChunkBytes + BarrierBytes;
  static_assert(GroupM % 64 == 0 && BlockN % 32 == 0 && BlockN <= 256, "wgmma is 64 x (8..256)");
  static_assert(MmaM * BlockN / 2 <= 192, "accumulators of a thread must leave room in 232 registers");
  static_assert(BlockN / Cluster % 8 == 0 || RightMn, "a multicast share is whole 8-row swizzle groups");
  static_assert(SharedBytes <= kSharedLimit, "the tile does not fit in shared memory");
};

template <class Tile>
struct Ring {
  alignas(
      1024) unsigned char left[Tile::Stages][Tile::LeftBytes];  // (BlockM, 64) K-major | atoms of (64, 64)
  alignas(1024) unsigned char right[Tile::Stages]
                                   [Tile::RightBytes];  // (BlockN, 64) K-major | atoms of (64, AtomN)
  alignas(1024) unsigned char out[kConsumers * 4][Tile::Buffers]
                                 [Tile::ChunkBytes];  // a consumer warp's chunks (16, ChunkN)
  alignas(1024) uint64_t full[Tile::Stages];
  uint64_t empty[Tile::Stages];
  uint64_t residual[kConsumers * 4][2];
  uint64_t order[kConsumers];  // ping-pong: consumer may start its main loop
};

// One unit of work: an output tile, or one range of its sum.
struct Unit {
  int m, n;                // tile indices; m counts this block's tiles
  int tile;                // number of the tile, below Cluster tiles_m tiles_n
  int first, base, slabs;  // first slab, slabs of the base product, all slabs (the rest are the adapter's)
  int split;               // which range; the last one does the epilogue
  int x, y, image;         // convolutions: the tile's first pixel
};
// tiles_m counts clusters.
struct Raster {
  int tiles_m, tiles_n, splits;
};

__device__ inline Unit unit_of(const Raster& r, int u, int cluster, int rank, int k_slabs, int extra_slabs) {
  Unit w = {};
  w.split = u % r.splits;
  const int t = u / r.splits, per_group = kRasterGroup * r.tiles_n, first = t / per_group * kRasterGroup;
  const int rows = r.tiles_m - first < kRasterGroup ? r.tiles_m - first : kRasterGroup;
  w.m = (first + t % per_group % rows) * cluster + rank;
  w.n = t % per_group / rows;
  w.tile = t * cluster + rank;
  w.first = k_slabs * w.split / r.splits;  // the host keeps k_slabs * splits below 2^31
  w.base = k_slabs * (w.split + 1) / r.splits - w.first;
  w.slabs = w.base + (w.split == r.splits - 1 ? extra_slabs : 0);
  return w;
}

// Slot and phase of the n-th slab.
struct RingPlace {
  int slot = 0;
  uint32_t phase = 0;
  template <int Stages>
  __device__ inline void next() {
    if (++slot == Stages) slot = 0, phase ^= 1;
  }
};

}  // namespace gemm
