// Idea: a convolution as a problem of the Hopper pipeline: a list of taps, each a shift of a 5-D box.
//
// TMA reads zeros outside the tensor, which is the padding. A stride of 2 (or an enlarged image's gradient)
// sees its source as (2C, W / 2, 2, H / 2, N): a tap is then a parity plane and a shift, and rows stay dense.
// The host makes the list: cuda/taps.rs.
#pragma once
#include "gemm/pipeline_sm90.cuh"

namespace conv2d {

using Byte = unsigned char;

constexpr int kMaxTaps = 36;  // 3x3 for each of the four copies of an enlarged pixel

struct Tap {
  int channel;     // first channel in the view: its column parity times the channels
  short dx, dy;    // shift in the view's pixels
  short plane;     // row parity
  short kernel;    // u * kw + v
};

template <class T>
struct alignas(64) TapArgs {
  ptx::TensorMap src;     // view of the gathered tensor, box (64, tile_w, 1, tile_h, 1) | dw: of dy
  ptx::TensorMap weight;  // w as (O, taps C): box (BlockN / Cluster, 64) | dx: (64, AtomN) | dw: view of x
  ptx::TensorMap out;     // view of the result, box (ChunkN, 16 pixels) | dw: (O, taps C), box (16, ChunkN)
  const T* bias;          // (columns) or null
  float* parts;           // partial sums, see join_ranges
  unsigned* counters;     // a zeroed word a piece
  int columns;            // channels of the result | dw: channels of x
  int blocks;             // of 64 channels a tap reduces over | dw: classes of output pixels
  int taps;
  int images;
  int tile_w, log_tile_w, tile_h;  // pixels of a tile (dw: of a slab); tile_w a power of two of at least 8
  int tiles_x, tiles_y;            // of an image (of a class)
  int rows;               // dw: channels of dy
  int accumulate;         // add the old content of `out`
  gemm::Raster raster;
  Tap tap[kMaxTaps];      // dw: taps of class 0, of class 1, ..
};

// The pixels of tile `i`; images past the last read zeros and write nothing.
template <class T>
__device__ inline void locate(const TapArgs<T>& a, gemm::Unit& w, int i) {
  const int each = a.tiles_x * a.tiles_y, in_image = i % each;
  w.image = i / each;
  w.x = in_image % a.tiles_x * a.tile_w;
  w.y = in_image / a.tiles_x * a.tile_h;
}

// What all passes share.
template <class T, class Tile>
struct TapProblem {
  using Element = T;
  const TapArgs<T>& a;

  __device__ inline int units() const { return a.raster.tiles_m * a.raster.tiles_n * a.raster.splits; }
  __device__ inline gemm::Raster raster() const { return a.raster; }
  __device__ inline float* parts() const { return a.parts; }
  __device__ inline unsigned* counters() const { return a.counters; }
  __device__ inline float alpha() const { return 1.0f; }
  __device__ inline bool has_residual() const { return a.accumulate != 0; }
  __device__ inline int extra_steps(int) const { return 0; }
  __device__ inline void prefetch() const {
    ptx::tma_prefetch(&a.src);
    ptx::tma_prefetch(&a.weight);
    ptx::tma_prefetch(&a.out);
  }
};

// Rows are pixels, columns channels of the result: forward (weights K-major), data gradient (MN-major).
template <class T, class Tile>
struct Gathered : TapProblem<T, Tile> {
  using TapProblem<T, Tile>::a;

  __device__ inline gemm::Unit unit(int u, int rank) const {
    gemm::Unit w = gemm::unit_of(a.raster, u, Tile::Cluster, rank, a.blocks * a.taps, 0);
    locate(a, w, w.m);
    return w;
  }
  __device__ inline void load(const gemm::Unit& w, int k, Byte* left, Byte* right, uint64_t* bar,
                              int rank) const {
    const int slab = w.first + k;  // taps innermost: the pixels stay in L2
    const int channel = slab / a.taps * gemm::kSlab;
    const Tap tap = a.tap[slab % a.taps];
    ptx::tma_load_5d(left, &a.src, bar, tap.channel + channel, w.x + tap.dx, tap.plane, w.y + tap.dy,
                     w.image);
    const int n0 = w.n * Tile::BlockN;
    constexpr uint16_t All = (1u << Tile::Cluster) - 1;
    if constexpr (!Tile::RightMn) {
      constexpr int Rows = Tile::BlockN / Tile::Cluster;
      const int k0 = tap.kernel * a.blocks * gemm::kSlab + channel;
      if constexpr (Tile::Cluster == 1)
        ptx::tma_load_2d(right, &a.weight, bar, k0, n0);
      else
        ptx::tma_load_2d_multicast(right + rank * Rows * 128, &a.weight, bar, k0, n0 + rank * Rows, All);
    } else {
      // Columns past the last are the next tap's: they give columns of the tile that are never stored.
#pragma unroll
      for (int j = 0; j < Tile::BlockN / Tile::AtomN; ++j) {
        Byte* atom = right + j * Tile::AtomBytes;
        const int column = tap.kernel * a.columns + n0 + j * Tile::AtomN;
        if constexpr (Tile::Cluster == 1)
          ptx::tma_load_2d(atom, &a.weight, bar, column, channel);
        else if (j % Tile::Cluster == rank)
          ptx::tma_load_2d_multicast(atom, &a.weight, bar, column, channel, All);
      }
    }
  }
  __device__ inline gemm::TileBias<T> bias(const gemm::Unit& w) const {
    const int n0 = w.n * Tile::BlockN;
    return {a.bias + n0, a.bias ? a.columns - n0 : 0};
  }
  __device__ inline void load_residual(const gemm::Unit& w, int row, int col, Byte* staging,
                                       uint64_t* bar) const {
    ptx::tma_load_5d(staging, &a.out, bar, w.n * Tile::BlockN + col, w.x + (row & (a.tile_w - 1)), 0,
                     w.y + (row >> a.log_tile_w), w.image);
  }
  __device__ inline void store(const gemm::Unit& w, int row, int col, const Byte* staging) const {
    ptx::tma_store_5d(&a.out, staging, w.n * Tile::BlockN + col, w.x + (row & (a.tile_w - 1)), 0,
                      w.y + (row >> a.log_tile_w), w.image);
  }
};

// Rows are channels of dy, columns (tap, channel of x), slabs 64 output pixels of a class; both MN-major.
template <class T, class Tile>
struct Weighted : TapProblem<T, Tile> {
  using TapProblem<T, Tile>::a;
  static_assert(Tile::LeftMn && Tile::RightMn && Tile::Cluster == 1, "operands as they lie, no multicast");

  __device__ inline gemm::Unit unit(int u, int rank) const {
    return gemm::unit_of(a.raster, u, 1, rank, a.blocks * a.images * a.tiles_x * a.tiles_y, 0);
  }
  __device__ inline void load(const gemm::Unit& w, int k, Byte* left, Byte* right, uint64_t* bar, int) const {
    const int slab = w.first + k, tiles = a.images * a.tiles_x * a.tiles_y, klass = slab / tiles;
    gemm::Unit at;
    locate(a, at, slab % tiles);
    const int m0 = (klass & 1) * a.rows + w.m * Tile::BlockM;  // rows past the last are never stored
#pragma unroll
    for (int j = 0; j < Tile::BlockM / 64; ++j)
      ptx::tma_load_5d(left + j * 64 * 128, &a.src, bar, m0 + j * 64, at.x, klass >> 1, at.y, at.image);
#pragma unroll
    for (int j = 0; j < Tile::BlockN / Tile::AtomN; ++j) {  // an atom lies in one tap: C % 64 == 0
      const int n = w.n * Tile::BlockN + j * Tile::AtomN, t = n / a.columns;
      const Tap tap = a.tap[klass * a.taps + (t < a.taps ? t : 0)];  // columns past the last: never stored
      ptx::tma_load_5d(right + j * Tile::AtomBytes, &a.weight, bar, tap.channel + n % a.columns,
                       at.x + tap.dx, tap.plane, at.y + tap.dy, at.image);
    }
  }
  __device__ inline gemm::TileBias<T> bias(const gemm::Unit&) const { return {nullptr, 0}; }
  __device__ inline void load_residual(const gemm::Unit& w, int row, int col, Byte* staging,
                                       uint64_t* bar) const {
    ptx::tma_load_2d(staging, &a.out, bar, w.n * Tile::BlockN + col, w.m * Tile::BlockM + row);
  }
  __device__ inline void store(const gemm::Unit& w, int row, int col, const Byte* staging) const {
    ptx::tma_store_2d(&a.out, staging, w.n * Tile::BlockN + col, w.m * Tile::BlockM + row);
  }
};

template <class T, class Tile>
__device__ inline void gathered(const TapArgs<T>& a) {
  gemm::pipeline<Tile>(Gathered<T, Tile>{{a}});
}

template <class T, class Tile>
__device__ inline void weighted(const TapArgs<T>& a) {
  gemm::pipeline<Tile>(Weighted<T, Tile>{{a}});
}

}  // namespace conv2d
