// Idea: a tile of the product by mma.sync, from a ring of slabs that cp.async fills; 16-bit types, Ampere and later.
//
// A slab is 32 deep. It lies in shared memory as its operand lies in global memory, in 16-byte pieces:
//   K-major  (rows, 32): 4 pieces a row, piece c of row r at c ^ (r / 2 % 4);
//   MN-major (32, rows): rows / 8 pieces a K-row, piece c of K-row k at c ^ (k % 8); ldmatrix transposes.
// Either way the 8 rows of an ldmatrix matrix fall into 8 different 16-byte banks.
#pragma once
#include "common/shared.cuh"
#include "gemm/product.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace gemm {

template <int BlockM_, int BlockN_, int WarpsM_, int WarpsN_, int BlocksPerSm_>
struct MmaTile {
  static constexpr int BlockM = BlockM_, BlockN = BlockN_, Depth = 32, Stages = 4;
  static constexpr int WarpsM = WarpsM_, WarpsN = WarpsN_, Threads = 32 * WarpsM * WarpsN;
  static constexpr int WarpM = BlockM / WarpsM, WarpN = BlockN / WarpsN;  // results of one warp
  static constexpr int MmaM = WarpM / 16, MmaN = WarpN / 8;
  static constexpr int LeftLen = BlockM * Depth, RightLen = BlockN * Depth;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, BlocksPerSm = BlocksPerSm_;
  static constexpr int SharedBytes = Stages * (LeftLen + RightLen) * 2;
  static_assert(WarpM % 16 == 0 && WarpN % 16 == 0, "an ldmatrix.x4 covers 16 rows of either operand");
  static_assert(BlockM % 64 == 0 && BlockN % 64 == 0, "MN-major rows are whole 128-byte lines");
  static_assert(MmaM * MmaN * 4 <= 64, "accumulators of a thread leave room for fragments");
};

template <class Tile, class T>
struct MmaShared {
  alignas(128) T left[Tile::Stages][Tile::LeftLen];  // (BlockM, 32) or (32, BlockM) a stage
  alignas(128) T right[Tile::Stages][Tile::RightLen];
};

// Index in a slab of element (r, k), k the first of a piece when K-major, r when MN-major.
template <bool KMajor, int Rows>
__device__ inline int slab_index(int r, int k) {
  if constexpr (KMajor) return r * 32 + ((k / 8) ^ (r / 2 % 4)) * 8;
  return k * Rows + ((r / 8) ^ (k % 8)) * 8;
}

// Starts the copy of a slab, one 16-byte piece a thread and turn; zeros outside the operand. `rows` of an MN-major
// operand is its pitch: it and the depth of a K-major one are multiples of 8, so a piece lies inside or outside whole.
template <bool KMajor, int Rows, int Threads, class T>
__device__ inline void fetch_slab(T* slab, const T* from, int rows, int depth, int row0, int k0) {
  constexpr int Pieces = Rows * 4, Across = Rows / 8;
#pragma unroll
  for (int i = int(threadIdx.x); i < Pieces; i += Threads) {
    const int r = KMajor ? i / 4 : i % Across * 8, k = KMajor ? i % 4 * 8 : i / Across;
    const bool inside = row0 + r < rows && k0 + k < depth;
    const long long at =
        KMajor ? (long long)(row0 + r) * depth + k0 + k : (long long)(k0 + k) * rows + row0 + r;
    ptx::cp_async_16(slab + slab_index<KMajor, Rows>(r, k), inside ? from + at : from, inside);
  }
}

// Which slabs a block adds: its range of the base product's, then the adapter's.
struct Walk {
  int row0, col0, first, base, all;
};

template <class T, Pass P, class Tile>
__device__ inline void fetch(MmaShared<Tile, T>& s, const ProductArgs<T>& a, const Walk& w, int slab) {
  constexpr bool LeftK = P != Pass::Weight, RightK = P == Pass::Forward;
  const int slot = slab % Tile::Stages;
  const bool extra = slab >= w.base;
  const int k0 = (extra ? slab - w.base : w.first + slab) * Tile::Depth, depth = extra ? a.rank : a.k;
  fetch_slab<LeftK, Tile::BlockM, Tile::Threads>(s.left[slot], extra ? a.t : a.left,
                                                 LeftK ? a.m : a.left_pitch, depth, w.row0, k0);
  fetch_slab<RightK, Tile::BlockN, Tile::Threads>(s.right[slot], extra ? a.l : a.right,
                                                  RightK ? a.n : a.right_pitch, depth, w.col0, k0);
}

// Thread: rows lane / 4 and + 8 of each 16, columns 2 (lane % 4) and + 1 of each 8.
template <class Tile>
struct MmaSums {
  float v[Tile::MmaM][Tile::MmaN][4];
};

// Multiplies one slab.
template <class T, Pass P, class Tile>
__device__ inline void multiply(MmaSums<Tile>& c, const T* left, const T* right, int warp_row, int warp_col) {
  constexpr bool LeftK = P != Pass::Weight, RightK = P == Pass::Forward;
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8, r = lane % 8;
#pragma unroll
  for (int k = 0; k < Tile::Depth; k += 16) {
    uint32_t fa[Tile::MmaM][4];
#pragma unroll
    for (int i = 0; i < Tile::MmaM; ++i) {  // matrices: rows 0-7, 8-15 of k 0-7, then of k 8-15
      const int row = warp_row + i * 16 + matrix % 2 * 8, kk = k + matrix / 2 * 8;
      if constexpr (LeftK) ptx::ldmatrix_x4(fa[i], left + slab_index<true, Tile::BlockM>(row + r, kk));
      else ptx::ldmatrix_x4_trans(fa[i], left + slab_index<false, Tile::BlockM>(row, kk + r));
    }
#pragma unroll
    for (int j = 0; j < Tile::MmaN; j += 2) {  // matrices: k 0-7, 8-15 of columns 0-7, then of columns 8-15
      const int col = warp_col + j * 8 + matrix / 2 * 8, kk = k + matrix % 2 * 8;
      uint32_t f[4];
      if constexpr (RightK) ptx::ldmatrix_x4(f, right + slab_index<true, Tile::BlockN>(col + r, kk));
      else ptx::ldmatrix_x4_trans(f, right + slab_index<false, Tile::BlockN>(col, kk + r));
      const uint32_t low[2] = {f[0], f[1]}, high[2] = {f[2], f[3]};
#pragma unroll
      for (int i = 0; i < Tile::MmaM; ++i) {
        ptx::mma_m16n8k16<T>(c.v[i][j], fa[i], low);
        ptx::mma_m16n8k16<T>(c.v[i][j + 1], fa[i], high);
      }
    }
  }
}

// Writes a pair of neighbouring results; both lie inside, N is even.
template <class T>
__device__ inline void finish_pair(const ProductArgs<T>& a, int row, int col, float x, float y) {
  const long long at = (long long)row * a.n + col;
  const auto add = [&](const T* from) {
    const float2 f = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(from));
    x += f.x, y += f.y;
  };
  x *= a.alpha, y *= a.alpha;
  if (a.bias) add(a.bias + col);
  if (a.residual) add(a.residual + at);
  if (a.accumulate) add(a.out + at);
  *reinterpret_cast<uint32_t*>(a.out + at) = ptx::pack<T>(x, y);
}

template <class T, class Tile>
__device__ inline void store_sums(const ProductArgs<T>& a, const MmaSums<Tile>& c, int row0, int col0) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
    for (int j = 0; j < Tile::MmaN; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row0 + i * 16 + h * 8 + lane / 4, col = col0 + j * 8 + lane % 4 * 2;
        if (row >= a.m || col >= a.n) continue;
        const float x = c.v[i][j][2 * h], y = c.v[i][j][2 * h + 1];
        if (a.splits > 1)
          *reinterpret_cast<float2*>(a.parts + ((long long)blockIdx.z * a.m + row) * a.n + col) =
              make_float2(x, y);
        else finish_pair(a, row, col, x, y);
      }
}

// Where a block's tile of the result begins, and which range of the sum it adds.
struct Place {
  int row0, col0, split;
};

template <class T, Pass P, class Tile>
__device__ inline void mma_tile(const ProductArgs<T>& a, Place at) {
  auto& s = shared_memory<MmaShared<Tile, T>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used");
  const int split = at.split, warp = int(threadIdx.x) / 32;
  const Range own = range_of((a.k + Tile::Depth - 1) / Tile::Depth, split, a.splits);
  const int extra = split == a.splits - 1 ? (a.rank + Tile::Depth - 1) / Tile::Depth : 0;
  const int base = own.last - own.first;
  const Walk w = {at.row0, at.col0, own.first, base, base + extra};
  const int warp_row = warp / Tile::WarpsN * Tile::WarpM, warp_col = warp % Tile::WarpsN * Tile::WarpN;
  for (int slab = 0; slab < Tile::Stages - 1; ++slab) {
    if (slab < w.all) fetch<T, P, Tile>(s, a, w, slab);
    ptx::cp_async_commit();  // an empty group keeps the count
  }
  MmaSums<Tile> c = {};
  for (int slab = 0; slab < w.all; ++slab) {
    ptx::cp_async_wait<Tile::Stages - 2>();
    __syncthreads();  // slab is here for all, and all are done with the slot of slab - 1
    if (slab + Tile::Stages - 1 < w.all) fetch<T, P, Tile>(s, a, w, slab + Tile::Stages - 1);
    ptx::cp_async_commit();
    const int slot = slab % Tile::Stages;
    multiply<T, P, Tile>(c, s.left[slot], s.right[slot], warp_row, warp_col);
  }
  ptx::cp_async_wait<0>();
  store_sums<T, Tile>(a, c, w.row0 + warp_row, w.col0 + warp_col);
}

// One block: tile (blockIdx.x, blockIdx.y) of the result, range blockIdx.z of the sum.
template <class T, Pass P, class Tile>
__device__ inline void mma_product(const ProductArgs<T>& a) {
  const int row0 = int(blockIdx.x) * Tile::BlockM, col0 = int(blockIdx.y) * Tile::BlockN;
  mma_tile<T, P, Tile>(a, {row0, col0, int(blockIdx.z)});
}

// 8 warps of 64 x 32; 2 blocks hide each other's edges.        4 warps of 32 x 32 for small results.
using MmaLarge = MmaTile<128, 128, 2, 4, 2>;
using MmaSmall = MmaTile<64, 64, 2, 2, 4>;

}  // namespace gemm
