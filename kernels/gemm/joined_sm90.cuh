// Idea: several layers on one input as one Hopper product: x is read from L2 by all, and small layers fill the chip together.
//
// A tile belongs to one layer, its part: weights, results and adapters keep their own tensor maps, so nothing has to lie
// beside anything and a ragged edge of one part never reaches into the next. Tiles are numbered part by part along N.
#pragma once
#include "gemm/problem_sm90.cuh"

namespace gemm {

constexpr int kMostParts = 8;  // the maps of so many fit in 4 KB of arguments

template <class T>
struct alignas(64) JoinedArgs {
  TensorArgs<T> product;  // of part 0; t (M, parts rank) of all; n: of one part; its raster counts all tiles
  ptx::TensorMap right[kMostParts - 1];  // of the other parts
  ptx::TensorMap out[kMostParts - 1];
  ptx::TensorMap l[kMostParts - 1];
  const T* bias[kMostParts - 1];
  int tiles;  // of one part along N
  int unused;
};

template <class T, class Tile>
struct JoinedProduct : Product<T, Tile> {
  using Base = Product<T, Tile>;
  const JoinedArgs<T>& j;
  static_assert(!Tile::LeftMn && !Tile::RightMn && Tile::Cluster == 2, "forward only, weights by multicast");

  struct Cursor : Base::Cursor {
    int part;
  };
  __device__ inline Cursor cursor(const Unit& w, int) const { return {{within(w), 0}, w.n / j.tiles}; }
  __device__ inline Unit within(Unit w) const {
    w.n %= j.tiles;
    return w;
  }

  __device__ inline void load(Cursor& c, unsigned char* left, unsigned char* right, uint64_t* bar, int rank) const {
    const Unit& w = c.w;
    const int k = c.k++, rows = Tile::BlockN / 2, r0 = rank * rows;
    const bool extra = k >= w.base;
    const int k0 = (extra ? k - w.base : w.first + k) * kSlab, m0 = w.m * Tile::BlockM;
    // columns of t beyond a part's are the next one's: l has zeros there
    ptx::tma_load_2d(left, extra ? &Base::a.t : &Base::a.left, bar, extra ? c.part * Base::a.rank + k0 : k0, m0);
    const ptx::TensorMap* map = c.part == 0 ? (extra ? &Base::a.l : &Base::a.right)
                                            : (extra ? &j.l[c.part - 1] : &j.right[c.part - 1]);
    ptx::tma_load_2d_multicast(right + r0 * 128, map, bar, k0, w.n * Tile::BlockN + r0, 3);
  }

  __device__ inline TileBias<T> bias(const Unit& w) const {
    const int part = w.n / j.tiles, n0 = w.n % j.tiles * Tile::BlockN;
    const T* at = part == 0 ? Base::a.bias : j.bias[part - 1];
    return {at + n0, at ? Base::a.n - n0 : 0};
  }
  __device__ inline void store(const Unit& w, int row, int col, const unsigned char* staging) const {
    const int part = w.n / j.tiles, n0 = w.n % j.tiles * Tile::BlockN;
    ptx::tma_store_2d(part == 0 ? &Base::a.out : &j.out[part - 1], staging, n0 + col,
                      w.m * Tile::BlockM + row);
  }
};

// The gradient of their input: out = sum_p dy_p w_p + t l, one sum over the columns of all parts.
template <class T>
struct alignas(64) JoinedInputArgs {
  TensorArgs<T> product;  // left: dy (parts rows, K); right, k_slabs: of part 0, of all; rank: of all adapters together
  ptx::TensorMap right[kMostParts - 1];
  int slabs;  // of one part
  int rows;   // of one part's dy
};

template <class T, class Tile>
struct JoinedInput : Product<T, Tile> {
  using Base = Product<T, Tile>;
  const JoinedInputArgs<T>& j;
  static_assert(!Tile::LeftMn && Tile::RightMn && Tile::Cluster == 2, "dx = dy w, atoms dealt out over the cluster");

  __device__ inline void load(typename Base::Cursor& c, unsigned char* left, unsigned char* right, uint64_t* bar,
                              int rank) const {
    const Unit& w = c.w;
    const int k = c.k++, slab = w.first + k, part = slab / j.slabs;
    const bool extra = k >= w.base;
    const int k0 = (extra ? k - w.base : slab % j.slabs) * kSlab, m0 = w.m * Tile::BlockM, n0 = w.n * Tile::BlockN;
    // rows beyond a part's are the next one's: their sums are not stored
    ptx::tma_load_2d(left, extra ? &Base::a.t : &Base::a.left, bar, k0, extra ? m0 : part * j.rows + m0);
    const ptx::TensorMap* map = extra ? &Base::a.l : part == 0 ? &Base::a.right : &j.right[part - 1];
#pragma unroll
    for (int i = 0; i < Tile::BlockN / Tile::AtomN; ++i)
      if (i % 2 == rank)
        ptx::tma_load_2d_multicast(right + i * Tile::AtomBytes, map, bar, n0 + i * Tile::AtomN, k0, 3);
  }
};

template <class T, class Tile>
__device__ inline void joined_input(const JoinedInputArgs<T>& a) {
  pipeline<Tile>(JoinedInput<T, Tile>{{a.product}, a});
}

template <class T, class Tile>
__device__ inline void joined_product(const JoinedArgs<T>& a) {
  pipeline<Tile>(JoinedProduct<T, Tile>{{a.product}, a});
}

}  // namespace gemm
