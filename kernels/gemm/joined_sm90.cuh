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
  TensorArgs<T> product;  // of part 0, with the adapters' left operands of all; n: of one part; its raster counts all tiles
  ptx::TensorMap right[kMostParts - 1];  // of the other parts
  ptx::TensorMap out[kMostParts - 1];
  ptx::TensorMap l[kMostParts - 1];
  const T* bias[kMostParts - 1];
  int tiles;  // of one part along N
  int rows;   // of one part's left operand in product.t (parts * rows, rank)
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
    // rows beyond a part's are the next one's: their sums are not stored
    ptx::tma_load_2d(left, extra ? &Base::a.t : &Base::a.left, bar, k0, extra ? c.part * j.rows + m0 : m0);
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

template <class T, class Tile>
__device__ inline void joined_product(const JoinedArgs<T>& a) {
  pipeline<Tile>(JoinedProduct<T, Tile>{{a.product}, a});
}

}  // namespace gemm
