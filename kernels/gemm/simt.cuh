// Idea: a tile of the product on the ordinary multipliers, for every element type, size and alignment.
#pragma once
#include "common/shared.cuh"
#include "gemm/product.cuh"

namespace gemm {

// 64 x 64 results a block: small enough for a U-Net of 32 channels, 8 x 8 a thread: 4 shared loads feed 64 FMAs.
struct SimtTile {
  static constexpr int BlockM = 64, BlockN = 64, Depth = 16, ThreadM = 8, ThreadN = 8;
  static constexpr int Threads = (BlockM / ThreadM) * (BlockN / ThreadN);
  static constexpr int Pitch = BlockM + 4;  // 16-byte rows, and a column of a slab falls into 8 banks
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, Stages = 1, BlocksPerSm = 6;  // 8 would spill
  static constexpr int SharedBytes = 2 * Depth * Pitch * int(sizeof(float));
  static_assert(BlockM == BlockN, "both operands share the slab's layout");
  static_assert(Threads % 32 == 0, "whole warps");
};

struct SimtShared {
  float left[SimtTile::Depth][SimtTile::Pitch];   // (Depth, BlockM)
  float right[SimtTile::Depth][SimtTile::Pitch];  // (Depth, BlockN)
};
static_assert(sizeof(SimtShared) == SimtTile::SharedBytes, "the record says what is used");

// An operand: element (row, k) of a matrix with `rows` rows along the result and `depth` along the sum; `pitch`
// elements from one row to the next (of the result when K-major, of the sum when MN-major), 0 where it is dense.
template <class T>
struct Operand {
  const T* at;
  int rows, depth, pitch = 0;
};

// Slab k0 .. k0 + Depth of rows row0 .. row0 + 64, zero outside. Neighbouring threads read neighbouring elements.
template <bool KMajor, class T>
__device__ inline void load_slab(float (&s)[SimtTile::Depth][SimtTile::Pitch], const Operand<T>& x, int row0,
                                 int k0) {
  using Tile = SimtTile;
  const int pitch = x.pitch ? x.pitch : KMajor ? x.depth : x.rows;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < Tile::Depth * Tile::BlockM; i += Tile::Threads) {
    const int k = KMajor ? i % Tile::Depth : i / Tile::BlockM;
    const int r = KMajor ? i / Tile::Depth : i % Tile::BlockM;
    const bool inside = row0 + r < x.rows && k0 + k < x.depth;
    const long long at =
        KMajor ? (long long)(row0 + r) * pitch + k0 + k : (long long)(k0 + k) * pitch + row0 + r;
    s[k][r] = inside ? to_f32(x.at[at]) : 0.0f;
  }
}

// The tile column of a thread's j-th result: two groups of four, 32 apart, so that 8 threads read 32 different banks.
__device__ inline int column_of(int j) { return j / 4 * 32 + int(threadIdx.x) % 8 * 4 + j % 4; }

struct SimtSums {
  float v[SimtTile::ThreadM][SimtTile::ThreadN];
};

// Adds the slabs first .. last of left x right.
template <bool LeftK, bool RightK, class T>
__device__ inline void add_slabs(SimtSums& c, SimtShared& s, const Operand<T>& left, const Operand<T>& right,
                                 int row0, int col0, int first, int last) {
  using Tile = SimtTile;
  const int row = int(threadIdx.x) / 8 * Tile::ThreadM;
  for (int slab = first; slab < last; ++slab) {
    load_slab<LeftK>(s.left, left, row0, slab * Tile::Depth);
    load_slab<RightK>(s.right, right, col0, slab * Tile::Depth);
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < Tile::Depth; ++k) {
      const float* a = &s.left[k][row];
      float b[Tile::ThreadN];
#pragma unroll
      for (int j = 0; j < Tile::ThreadN; ++j) b[j] = s.right[k][column_of(j)];
#pragma unroll
      for (int i = 0; i < Tile::ThreadM; ++i)
#pragma unroll
        for (int j = 0; j < Tile::ThreadN; ++j) c.v[i][j] += a[i] * b[j];
    }
    __syncthreads();
  }
}

// One block: tile (blockIdx.y, blockIdx.x) of the result, range blockIdx.z of the sum.
template <class T, Pass P>
__device__ inline void simt_product(const ProductArgs<T>& a) {
  using Tile = SimtTile;
  constexpr bool LeftK = P != Pass::Weight, RightK = P == Pass::Forward;
  SimtShared& s = shared_memory<SimtShared>();
  const int row0 = int(blockIdx.x) * Tile::BlockM, col0 = int(blockIdx.y) * Tile::BlockN,
            split = int(blockIdx.z);
  const Range own = range_of((a.k + Tile::Depth - 1) / Tile::Depth, split, a.splits);
  SimtSums c = {};
  const Operand<T> left = {a.left, a.m, a.k, LeftK ? 0 : a.left_pitch};
  const Operand<T> right = {a.right, a.n, a.k, RightK ? 0 : a.right_pitch};
  add_slabs<LeftK, RightK, T>(c, s, left, right, row0, col0, own.first, own.last);
  if (a.rank > 0 && split == a.splits - 1) {
    const int slabs = (a.rank + Tile::Depth - 1) / Tile::Depth;
    const Operand<T> t = {a.t, a.m, a.rank}, l = {a.l, a.n, a.rank};
    add_slabs<true, RightK, T>(c, s, t, l, row0, col0, 0, slabs);
  }
  const int row = row0 + int(threadIdx.x) / 8 * Tile::ThreadM;
#pragma unroll
  for (int i = 0; i < Tile::ThreadM; ++i)
#pragma unroll
    for (int j = 0; j < Tile::ThreadN; ++j) {
      const int col = col0 + column_of(j);
      if (row + i >= a.m || col >= a.n) continue;
      if (a.splits > 1) a.parts[((long long)split * a.m + row + i) * a.n + col] = c.v[i][j];
      else finish(a, row + i, col, c.v[i][j]);
    }
}

}  // namespace gemm
