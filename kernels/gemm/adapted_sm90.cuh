// Idea: a layer's adapter in the layer's own launch. The first units make h = s x a^T (or g = s dy up), 128 rows a block; the
// tiles come behind them, and what they need of h are their last slabs, by when it is there.
//
// The units are a problem of their own that the pipeline's ring serves first: x goes the same way, a is at most 128 wide. K is
// cut into ranges so that every cluster has a unit; they are joined as a tile's are. A tile waits for h only from units of
// lower number, so a launch ends whatever the number of resident blocks.
#pragma once
#include "gemm/joined_sm90.cuh"

namespace gemm {

constexpr int kAdapterRows = 128;  // of a unit's block, 64 a consumer

// h (m, pitch), part p from column p n: alpha wide_p narrow_p, wide (m, K) of all or (count m, K), narrow (count n, K), or
// (count depth, n) MN-major.
template <class T>
struct alignas(64) AdapterArgs {
  ptx::TensorMap wide;    // box (128, 64) K-major
  ptx::TensorMap narrow;  // box (cols, 64) K-major, or (64, 32) MN-major
  T* out;
  float* parts;        // partial sums, see join_ranges
  unsigned* counters;  // a word a piece, zero before and after
  unsigned* ready;     // a word a cluster's rows: pieces that are there, then tiles that have seen them; zero before and after
  float alpha;
  int m, n, k_slabs, splits, count, pitch, depth;
  int wide_step;  // from a part's rows of `wide` to the next one's; 0: one for all
  int cols;       // 32, 64, 96 or 128, at least n
  int tiles_m;  // of the layer
  int readers;  // tiles of the layer beside each other
  int unused[12];
};

template <int Cols>
struct AdapterSums {
  static constexpr int MmaM = 1, BlockN = Cols;
};

struct AdapterUnit {
  int m0, part, split, first, slabs;
  int tile;  // of all blocks' (128, n)
};

template <class T>
struct AdapterProduct {
  const AdapterArgs<T>& a;

  template <class Tile>
  __device__ inline int tiles() const {  // clusters of blocks: whole tiles of the layer
    return a.tiles_m * (Tile::BlockM / kAdapterRows);
  }
  template <class Tile>
  __device__ inline int units() const {
    return tiles<Tile>() * a.count * a.splits;
  }
  template <class Tile>
  __device__ inline AdapterUnit unit(int u, int rank) const {
    AdapterUnit w;
    const int t = u / a.splits, m = t / a.count * Tile::Cluster + rank;
    w.split = u % a.splits;
    w.part = t % a.count;
    w.m0 = m * kAdapterRows;
    w.tile = t * Tile::Cluster + rank;
    w.first = a.k_slabs * w.split / a.splits;
    w.slabs = a.k_slabs * (w.split + 1) / a.splits - w.first;
    return w;
  }

  // One thread, elected: a unit's slabs.
  template <class Tile>
  __device__ inline void produce(Ring<Tile>& s, RingPlace& at, int u, int rank) const {
    const AdapterUnit w = unit<Tile>(u, rank);
    for (int k = w.first; k < w.first + w.slabs; ++k) {
      uint64_t* bar = &s.full[at.slot];
      ptx::mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
      ptx::mbarrier_expect_tx(bar, (kAdapterRows + a.cols) * kSlab * 2);
      // rows beyond a part's are the next one's, of both: their sums are not stored
      ptx::tma_load_2d(s.left[at.slot], &a.wide, bar, k * kSlab, w.part * a.wide_step + w.m0);
      if constexpr (!Tile::RightMn) {
        ptx::tma_load_2d(s.right[at.slot], &a.narrow, bar, k * kSlab, w.part * a.n);
      } else {
        for (int j = 0; j < a.cols / kNarrowAtomN; ++j)
          ptx::tma_load_2d(s.right[at.slot] + j * kNarrowAtomBytes, &a.narrow, bar, j * kNarrowAtomN,
                           w.part * a.depth + k * kSlab);
      }
      at.template next<Tile::Stages>();
    }
  }

  template <class Tile, int Cols>
  __device__ inline void sums(Sums<AdapterSums<Cols>>& c, Ring<Tile>& s, RingPlace& at, int slabs, int consumer,
                              int t) const {
    int last = 0;
    for (int k = 0; k < slabs; ++k) {
      ptx::mbarrier_wait(&s.full[at.slot], at.phase);
      const uint32_t left = ptx::smem_address(s.left[at.slot]) + consumer * 64 * 128,
                     right = ptx::smem_address(s.right[at.slot]);
      ptx::wgmma_fence();
#pragma unroll
      for (int i = 0; i < kSlab / kMmaK; ++i) {
        const uint64_t b = Tile::RightMn ? ptx::wgmma_descriptor(right + i * 2 * kNarrowAtomGroup, kNarrowAtomBytes,
                                                                 kNarrowAtomGroup, 64)
                                         : ptx::wgmma_descriptor(right + i * kMmaK * 2, 16, 1024, 128);
        ptx::wgmma_ss<T, Cols, 0, Tile::RightMn>(c.v[0], ptx::wgmma_descriptor(left + i * kMmaK * 2, 16, 1024, 128),
                                                 b, k + i > 0);
      }
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      if (k > 0) release<Tile>(s, last, t);
      last = at.slot;
      at.template next<Tile::Stages>();
    }
    ptx::wgmma_wait<0>();
    ptx::reg_fence(c.v);
    release<Tile>(s, last, t);
  }

  // This consumer's 64 rows, past the edges nothing.
  template <int Cols>
  __device__ inline void store(const Sums<AdapterSums<Cols>>& c, const AdapterUnit& w, int consumer, int t) const {
    const int lane = t % 32, row = w.m0 + consumer * 64 + t / 32 * 16 + lane / 4, col = lane % 4 * 2;
    T* out = a.out + (long long)row * a.pitch + w.part * a.n;
#pragma unroll
    for (int j = 0; j < Cols / 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e)  // of the columns there is a multiple of 8
        if (row + 8 * e < a.m && 8 * j < a.n)
          *reinterpret_cast<uint32_t*>(out + (long long)(8 * e) * a.pitch + 8 * j + col) =
              ptx::pack<T>(a.alpha * c.v[0][4 * j + 2 * e], a.alpha * c.v[0][4 * j + 2 * e + 1]);
  }

  template <class Tile, int Cols>
  __device__ inline void consume_as(Ring<Tile>& s, RingPlace& at, int u, int rank, int consumer, int t) const {
    const AdapterUnit w = unit<Tile>(u, rank);
    Sums<AdapterSums<Cols>> c;
    sums<Tile, Cols>(c, s, at, w.slabs, consumer, t);
    if (a.splits > 1) {
      const Piece piece = {w.tile * kConsumers + consumer, w.split, a.splits};
      if (!join_ranges<AdapterSums<Cols>>(c, a.parts, a.counters, piece, consumer, t)) return;
    }
    store<Cols>(c, w, consumer, t);
    ptx::fence_proxy_async_global();  // the tiles read it by TMA
    __threadfence();
    ptx::barrier_sync(1 + consumer, kWarpgroup);
    if (t == 0) ptx::atomic_add_acq_rel(&a.ready[w.m0 / (Tile::Cluster * Tile::BlockM)], 1);
  }

  // One consumer warpgroup: its 64 rows of a unit.
  template <class Tile>
  __device__ inline void consume(Ring<Tile>& s, RingPlace& at, int u, int rank, int consumer, int t) const {
    static_assert(!Tile::PingPong && Tile::BlockM % kAdapterRows == 0, "a slab of both fits where the tile's go");
    static_assert(Tile::BlockN >= 128, "the widest a fits where the tile's weights go");
    if (a.cols == 32) consume_as<Tile, 32>(s, at, u, rank, consumer, t);
    else if (a.cols == 64) consume_as<Tile, 64>(s, at, u, rank, consumer, t);
    else if (a.cols == 96) consume_as<Tile, 96>(s, at, u, rank, consumer, t);
    else consume_as<Tile, 128>(s, at, u, rank, consumer, t);
  }

  // One thread: waits until h of the tile's cluster is there. The last tile that has seen it clears the word.
  template <class Tile>
  __device__ inline void await(int m) const {
    const unsigned pieces = Tile::Cluster * Tile::BlockM / 64 * a.count, readers = Tile::Cluster * a.readers;
    unsigned* word = &a.ready[m / Tile::Cluster];
    while (ptx::load_acquire(word) < pieces) {
    }
    ptx::fence_proxy_async_global();
    if (ptx::atomic_add_acq_rel(word, 1) == pieces + readers - 1) ptx::store_relaxed(word, 0);
  }
};

// A product whose t is made by its own launch.
template <class Base, class Tile>
struct Adapted : Base {
  using T = typename Base::Element;
  const AdapterArgs<T>& d;

  __device__ inline AdapterProduct<T> leading() const { return {d}; }
  __device__ inline void load(typename Base::Cursor& c, unsigned char* left, unsigned char* right, uint64_t* bar,
                              int rank) const {
    if (c.k == c.w.base) leading().template await<Tile>(c.w.m);
    Base::load(c, left, right, bar, rank);
  }
};

// The arguments of a layer, of several on one input, of their input's gradient; and of the adapter.
template <class T>
struct alignas(64) AdaptedArgs {
  TensorArgs<T> layer;
  AdapterArgs<T> adapter;
};
template <class T>
struct alignas(64) AdaptedJoinedArgs {
  JoinedArgs<T> layer;
  AdapterArgs<T> adapter;
};
template <class T>
struct alignas(64) AdaptedJoinedInputArgs {
  JoinedInputArgs<T> layer;
  AdapterArgs<T> adapter;
};

template <class T, class Tile>
__device__ inline void adapted_product(const AdaptedArgs<T>& a) {
  pipeline<Tile>(Adapted<Product<T, Tile>, Tile>{{a.layer}, a.adapter});
}

template <class T, class Tile>
__device__ inline void adapted_joined(const AdaptedJoinedArgs<T>& a) {
  pipeline<Tile>(Adapted<JoinedProduct<T, Tile>, Tile>{{{a.layer.product}, a.layer}, a.adapter});
}

template <class T, class Tile>
__device__ inline void adapted_joined_input(const AdaptedJoinedInputArgs<T>& a) {
  pipeline<Tile>(Adapted<JoinedInput<T, Tile>, Tile>{{{a.layer.product}, a.layer}, a.adapter});
}

}  // namespace gemm
