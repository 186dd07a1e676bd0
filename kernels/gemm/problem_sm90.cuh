// Idea: the matrix product as a problem of the Hopper pipeline: tensor maps, which boxes a slab is, where a tile goes.
#pragma once
#include "gemm/pipeline_sm90.cuh"

namespace gemm {

// out = alpha (left right + t l) + bias (+ residual); operands as in product.cuh's Pass, all by tensor map.
template <class T>
struct alignas(64) TensorArgs {
  ptx::TensorMap left;      // box (BlockM, 64), or (64, 64) MN-major
  ptx::TensorMap right;     // box (BlockN / Cluster, 64), or (64, AtomN) MN-major
  ptx::TensorMap t;         // as left, of the adapter
  ptx::TensorMap l;         // as right
  ptx::TensorMap out;       // box (16, ChunkN)
  ptx::TensorMap residual;  // box (16, ChunkN); may be `out`
  const T* bias;            // (N) or null
  float* parts;             // partial sums, see join_ranges
  unsigned* counters;       // a word a piece, zero before and after
  int n, k_slabs, rank;     // rank 0: no adapter
  int has_residual;
  Raster raster;
  float alpha;
};

template <class T, class Tile>
struct Product {
  using Element = T;
  struct Cursor {
    Unit w;
    int k;  // the next slab
  };
  const TensorArgs<T>& a;

  __device__ inline int units() const { return a.raster.tiles_m * a.raster.tiles_n * a.raster.splits; }
  __device__ inline Raster raster() const { return a.raster; }
  __device__ inline float* parts() const { return a.parts; }
  __device__ inline unsigned* counters() const { return a.counters; }
  __device__ inline float alpha() const { return a.alpha; }
  __device__ inline bool has_residual() const { return a.has_residual != 0; }
  __device__ inline int extra_steps(int e) const {
    const int left = a.rank - e * kSlab;
    return ((left < kSlab ? left : kSlab) + kMmaK - 1) / kMmaK;
  }
  __device__ inline Unit unit(int u, int rank) const {
    return unit_of(a.raster, u, Tile::Cluster, rank, a.k_slabs, (a.rank + kSlab - 1) / kSlab);
  }
  __device__ inline void prefetch() const {
    ptx::tma_prefetch(&a.left);
    ptx::tma_prefetch(&a.right);
    ptx::tma_prefetch(&a.out);
  }

  __device__ inline Cursor cursor(const Unit& w, int) const { return {w, 0}; }

  // The next slab: the block's own rows of the left operand; of the right one its share, for the whole cluster.
  __device__ inline void load(Cursor& c, unsigned char* left, unsigned char* right, uint64_t* bar,
                              int rank) const {
    const Unit& w = c.w;
    const int k = c.k++;
    const bool extra = k >= w.base;
    const int k0 = (extra ? k - w.base : w.first + k) * kSlab, m0 = w.m * Tile::BlockM,
              n0 = w.n * Tile::BlockN;
    if constexpr (!Tile::LeftMn) {
      ptx::tma_load_2d(left, extra ? &a.t : &a.left, bar, k0, m0);
    } else {
#pragma unroll
      for (int j = 0; j < Tile::BlockM / 64; ++j)
        ptx::tma_load_2d(left + j * 64 * 128, &a.left, bar, m0 + j * 64, k0);
    }
    const ptx::TensorMap* map = extra ? &a.l : &a.right;
    constexpr uint32_t All = (1u << Tile::Cluster) - 1;
    if constexpr (!Tile::RightMn) {  // (BlockN, 64)
      const int rows = Tile::BlockN / Tile::Cluster, r0 = rank * rows;
      if constexpr (Tile::Cluster == 1) ptx::tma_load_2d(right, map, bar, k0, n0);
      else ptx::tma_load_2d_multicast(right + r0 * 128, map, bar, k0, n0 + r0, All);
    } else {
#pragma unroll
      for (int j = 0; j < Tile::BlockN / Tile::AtomN; ++j) {  // (64, AtomN) atoms, dealt out over the cluster
        unsigned char* atom = right + j * Tile::AtomBytes;
        if constexpr (Tile::Cluster == 1) ptx::tma_load_2d(atom, map, bar, n0 + j * Tile::AtomN, k0);
        else if (j % Tile::Cluster == rank)
          ptx::tma_load_2d_multicast(atom, map, bar, n0 + j * Tile::AtomN, k0, All);
      }
    }
  }

  __device__ inline TileBias<T> bias(const Unit& w) const {
    const int n0 = w.n * Tile::BlockN;
    return {a.bias + n0, a.bias ? a.n - n0 : 0};
  }
  __device__ inline void load_residual(const Unit& w, int row, int col, unsigned char* staging,
                                       uint64_t* bar) const {
    ptx::tma_load_2d(staging, &a.residual, bar, w.n * Tile::BlockN + col, w.m * Tile::BlockM + row);
  }
  __device__ inline void store(const Unit& w, int row, int col, const unsigned char* staging) const {
    ptx::tma_store_2d(&a.out, staging, w.n * Tile::BlockN + col, w.m * Tile::BlockM + row);
  }
};

template <class T, class Tile>
__device__ inline void tensor_product(const TensorArgs<T>& a) {
  pipeline<Tile>(Product<T, Tile>{a});
}

}  // namespace gemm
