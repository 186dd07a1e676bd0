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
  ptx::TensorMap weight;  // w as (O, taps C): box (BlockN / Cluster, 64) | dx: (64, AtomN) | dw: view of x, box (AtomN, ..)
  ptx::TensorMap out;     // view of the result, box (ChunkN, 16 pixels) | dw: (O, taps C), box (16, ChunkN)
  const T* bias;          // (columns) or null
  const T* shifts;        // forward: (images, columns) or null
  float* parts;           // partial sums, see join_ranges
  unsigned* counters;     // a word a piece, zero before and after
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
  int unused[14];         // up to a multiple of 64 bytes
};

// What is added to a tile's columns: the bias, and the shifts of its image; len 0: nothing.
template <class T>
struct PixelBias {
  gemm::TileBias<T> bias, shifts;

  __device__ inline float2 pair(int c) const {
    const float2 b = bias.pair(c), s = shifts.pair(c);
    return make_float2(b.x + s.x, b.y + s.y);
  }
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
  // The next slab: taps innermost, so that the pixels stay in L2.
  struct Cursor {
    gemm::Unit w;
    int tap, channel;
  };

  __device__ inline gemm::Unit unit(int u, int rank) const {
    gemm::Unit w = gemm::unit_of(a.raster, u, Tile::Cluster, rank, a.blocks * a.taps, 0);
    locate(a, w, w.m);
    return w;
  }
  __device__ inline Cursor cursor(const gemm::Unit& w, int) const {
    return {w, w.first % a.taps, w.first / a.taps * gemm::kSlab};
  }
  __device__ inline void load(Cursor& c, Byte* left, Byte* right, uint64_t* bar, int rank) const {
    const gemm::Unit& w = c.w;
    const int channel = c.channel;
    const Tap tap = a.tap[c.tap];
    if (++c.tap == a.taps) c.tap = 0, c.channel += gemm::kSlab;
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
  __device__ inline auto bias(const gemm::Unit& w) const {
    const int n0 = w.n * Tile::BlockN, len = a.columns - n0;
    const gemm::TileBias<T> bias = {a.bias + n0, a.bias ? len : 0};
    if constexpr (Tile::RightMn) return bias;  // a data gradient has neither
    else
      return PixelBias<T>{bias, {a.shifts + (long long)w.image * a.columns + n0, a.shifts && w.image < a.images ? len : 0}};
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

// Rows are channels of dy, columns (tap, channel of x), slabs 64 output pixels of a class; both MN-major. The blocks of
// a cluster have neighbouring columns and share each slab of dy by multicast: along the rows 320 channels are three
// tiles of 128, which clusters of two would make four.
template <class T, class Tile>
struct Weighted : TapProblem<T, Tile> {
  using TapProblem<T, Tile>::a;
  static constexpr int LeftBoxes = Tile::BlockM / 64 / Tile::Cluster, RightBoxes = Tile::BlockN / Tile::AtomN;
  static_assert(Tile::LeftMn && Tile::RightMn, "operands as they lie");
  static_assert(Tile::BlockM / 64 % Tile::Cluster == 0, "whole atoms a block");

  // The next slab's tile of pixels, and what the boxes add to it: constant within a class, so that nothing is divided
  // in the loop.
  struct Cursor {
    int m0, n0;                      // the block's first channel of dy, first column
    int across, down, image, klass;  // the tile of pixels
    int box[RightBoxes];             // of x: its tap << kTapShift | its channel
  };
  static constexpr int kTapShift = 24;

  __device__ inline gemm::Unit unit(int u, int rank) const {
    gemm::Unit w = gemm::unit_of(a.raster, u, 1, 0, a.blocks * a.images * a.tiles_x * a.tiles_y, 0);
    w.n = w.n * Tile::Cluster + rank;
    w.tile = w.tile * Tile::Cluster + rank;
    return w;
  }

  __device__ inline Cursor cursor(const gemm::Unit& w, int rank) const {
    Cursor c = {};
    c.m0 = w.m * Tile::BlockM + rank * 64, c.n0 = w.n * Tile::BlockN;
    const int each = a.tiles_x * a.tiles_y, all = each * a.images, in_class = w.first % all, in_image = in_class % each;
    c.klass = w.first / all, c.image = in_class / each;
    c.down = in_image / a.tiles_x * a.tile_h, c.across = in_image % a.tiles_x * a.tile_w;
#pragma unroll
    for (int j = 0; j < RightBoxes; ++j) {  // an atom lies in one tap: C % 64 == 0
      const int n = c.n0 + j * Tile::AtomN, tap = n / a.columns;
      c.box[j] = (tap < a.taps ? tap : 0) << kTapShift | (n - tap * a.columns);  // columns past the last: never stored
    }
    return c;
  }

  __device__ inline void advance(Cursor& c) const {
    if ((c.across += a.tile_w) < a.tiles_x * a.tile_w) return;
    c.across = 0;
    if ((c.down += a.tile_h) < a.tiles_y * a.tile_h) return;
    c.down = 0;
    if (++c.image < a.images) return;
    c.image = 0, ++c.klass;
  }

  __device__ inline void load(Cursor& c, Byte* left, Byte* right, uint64_t* bar, int rank) const {
#pragma unroll
    for (int j = 0; j < LeftBoxes; ++j) {
      Byte* atom = left + (j * Tile::Cluster + rank) * 64 * 128;
      const int channel = (c.klass & 1) * a.rows + c.m0 + j * Tile::Cluster * 64;  // past the last row: never stored
      if constexpr (Tile::Cluster == 1)
        ptx::tma_load_5d(atom, &a.src, bar, channel, c.across, c.klass >> 1, c.down, c.image);
      else
        ptx::tma_load_5d_multicast(atom, &a.src, bar, channel, c.across, c.klass >> 1, c.down, c.image,
                                   (1u << Tile::Cluster) - 1);
    }
#pragma unroll
    for (int j = 0; j < RightBoxes; ++j) {
      const Tap tap = a.tap[c.klass * a.taps + (c.box[j] >> kTapShift)];
      const int channel = c.box[j] & ((1 << kTapShift) - 1);
      ptx::tma_load_5d(right + j * Tile::AtomBytes, &a.weight, bar, tap.channel + channel, c.across + tap.dx,
                       tap.plane, c.down + tap.dy, c.image);
    }
    advance(c);
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
