// Idea: an expert's product on Hopper: gemm's ring, multiplication and staging; which rows an expert has is read on the chip.
//
// Ping-pong: a consumer has a tile to itself, and its results leave while the other multiplies. The blocks of a cluster have
// neighbouring columns and the same rows, which each brings a share of to all of them: experts have any number of rows, so
// clusters along those would end with tiles of nothing.
//
// A slab may bring rows behind the expert's last, which are the next one's. As rows of a result they are not stored; in the sum of a
// weight gradient they are overwritten with zeros, in both operands: what is no number there must not reach this expert.
#pragma once
#include "gemm/pipeline_sm90.cuh"
#include "moe/experts.cuh"

namespace moe {

// left: rows, dy; box (BlockM / Cluster, 64) K-major or (64, 64) MN-major. right: w in three dimensions, so that what lies outside
// of an expert's is zero, box (1, BlockN, 64) K-major or (1, 64, 64) MN-major; of the weight gradient rows, box (64, 64).
template <class T>
struct alignas(64) TensorExpertArgs {
  ptx::TensorMap left, right;
  ExpertArgs<T> experts;
};

constexpr int kAtomBytes = 64 * 128;  // (64, 64), MN-major

constexpr gemm::Layout layout_of(gemm::Pass p) {
  return p == gemm::Pass::Forward ? gemm::Layout::Forward
         : p == gemm::Pass::Input ? gemm::Layout::Input
                                  : gemm::Layout::Weight;
}

// What epilogue_sm90.cuh's Store asks of a problem to turn sums into staged results; the old ones lie there already.
template <class T>
struct Leaving {
  using Element = T;
  bool accumulate;

  __device__ inline float alpha() const { return 1.0f; }
  __device__ inline bool has_residual() const { return accumulate; }
};

// One tile: the expert's product, and the tile's place in it.
template <class T>
struct Work {
  gemm::ProductArgs<T> product;
  int expert, first;  // its first row
  int row0, col0;
  int slabs, tail;  // rows of the expert in the last slab of a weight gradient, 0: all
};

// Units of work, tiles of a cluster, in the order of the experts; a block's units ascend.
template <class T, gemm::Pass P, class Tile>
struct Walk {
  static constexpr bool Weight = P == gemm::Pass::Weight;
  const ExpertArgs<T>& a;
  int expert = 0, before = 0;  // units of the experts before this one
  int first = 0, count = 0;    // its rows

  __device__ inline int across() const {
    const int cols = P == gemm::Pass::Forward ? a.n : a.k;
    return (cols + Tile::Cluster * Tile::BlockN - 1) / (Tile::Cluster * Tile::BlockN);
  }

  // Goes on to the expert of unit u; false when there is none.
  __device__ inline bool find(int u) {
    for (; expert < a.experts; ++expert) {
      first = a.offset[expert], count = a.offset[expert + 1] - first;
      const int rows = Weight ? a.n : count, units = (rows + Tile::BlockM - 1) / Tile::BlockM * across();
      if (u < before + units) return true;
      before += units;
    }
    return false;
  }

  __device__ inline Work<T> work(int u, int rank) const {
    const int tile = (u - before) / across(), column = (u - before) % across() * Tile::Cluster + rank;
    const gemm::ProductArgs<T> p = product_of<T, P>(a, expert, first, count);
    const int slabs = (p.k + gemm::kSlab - 1) / gemm::kSlab;  // behind the last column there are zeros
    return {p, expert, first, tile * Tile::BlockM, column * Tile::BlockN, slabs, Weight ? count % gemm::kSlab : 0};
  }
};

// Starts the copies of slab k: this block's share of the rows for the whole cluster, its own columns.
template <class T, gemm::Pass P, class Tile>
__device__ inline void load(const TensorExpertArgs<T>& a, gemm::Ring<Tile>& s, const Work<T>& w, int k, int slot,
                            int rank) {
  constexpr uint32_t All = (1u << Tile::Cluster) - 1;
  unsigned char *left = s.left[slot], *right = s.right[slot];
  uint64_t* bar = &s.full[slot];
  const int k0 = k * gemm::kSlab;
  ptx::mbarrier_expect_tx(bar, Tile::LeftBytes + Tile::RightBytes);
  if constexpr (P != gemm::Pass::Weight) {
    const int r0 = rank * (Tile::BlockM / Tile::Cluster);
    ptx::tma_load_2d_multicast(left + r0 * 128, &a.left, bar, k0, w.first + w.row0 + r0, All);
  } else {
#pragma unroll
    for (int j = 0; j < Tile::BlockM / 64; ++j)
      if (j % Tile::Cluster == rank)
        ptx::tma_load_2d_multicast(left + j * kAtomBytes, &a.left, bar, w.row0 + j * 64, w.first + k0, All);
  }
  if constexpr (P == gemm::Pass::Forward) {
    ptx::tma_load_3d(right, &a.right, bar, k0, w.col0, w.expert);
  } else {
#pragma unroll
    for (int j = 0; j < Tile::BlockN / 64; ++j) {
      const int col = w.col0 + j * 64;
      if constexpr (P == gemm::Pass::Input) ptx::tma_load_3d(right + j * kAtomBytes, &a.right, bar, col, k0, w.expert);
      else ptx::tma_load_2d(right + j * kAtomBytes, &a.right, bar, col, w.first + k0);
    }
  }
}

// One thread, elected.
template <class T, gemm::Pass P, class Tile>
__device__ inline void produce(const TensorExpertArgs<T>& a, gemm::Ring<Tile>& s) {
  const int clusters = int(gridDim.x) / Tile::Cluster, rank = gemm::rank_in_cluster<Tile>();
  Walk<T, P, Tile> walk = {a.experts};
  gemm::RingPlace at;
  for (int u = int(blockIdx.x) / Tile::Cluster; walk.find(u); u += clusters) {
    const Work<T> w = walk.work(u, rank);
    for (int k = 0; k < w.slabs; ++k, at.template next<Tile::Stages>()) {
      ptx::mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
      load<T, P, Tile>(a, s, w, k, at.slot, rank);
    }
  }
  // Others of the cluster arrive at our slots: we stay until all are released.
  for (int i = 0; i < Tile::Stages; ++i, at.template next<Tile::Stages>())
    ptx::mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
}

// Zeros from row `tail` of a slab on, in every atom of both operands; by one warpgroup.
template <class Tile>
__device__ inline void clear_behind(gemm::Ring<Tile>& s, int slot, int tail, int consumer, int t) {
  for (int at = tail * 128 + t * 16; at < kAtomBytes; at += gemm::kWarpgroup * 16) {  // rows of 128 bytes, swizzled within
#pragma unroll
    for (int j = 0; j < Tile::BlockM / 64; ++j) *reinterpret_cast<uint4*>(s.left[slot] + j * kAtomBytes + at) = uint4{};
#pragma unroll
    for (int j = 0; j < Tile::BlockN / 64; ++j) *reinterpret_cast<uint4*>(s.right[slot] + j * kAtomBytes + at) = uint4{};
  }
  ptx::fence_proxy_async();
  ptx::barrier_sync(1 + consumer, gemm::kWarpgroup);
}

// The tile's slabs into c, by one consumer.
template <class T, class Tile>
__device__ inline void accumulate(gemm::Ring<Tile>& s, gemm::Sums<Tile>& c, const Work<T>& w, gemm::RingPlace& at,
                                  int consumer, int t) {
  int last = 0;
  for (int k = 0; k < w.slabs; ++k) {
    ptx::mbarrier_wait(&s.full[at.slot], at.phase);
    if (Tile::LeftMn && k == w.slabs - 1 && w.tail > 0) clear_behind<Tile>(s, at.slot, w.tail, consumer, t);
    const uint32_t left = ptx::smem_address(s.left[at.slot]), right = ptx::smem_address(s.right[at.slot]);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < gemm::kSlab / gemm::kMmaK; ++i) gemm::multiply_step<T, Tile>(c, left, right, i, k + i > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();  // slab k - 1 is done, k stays in flight
    if (k > 0) gemm::release<Tile>(s, last, t);
    last = at.slot;
    at.template next<Tile::Stages>();
  }
  // Without a slab nothing has kept our warps together, and one might wait for a turn that is past.
  if (Tile::LeftMn && w.slabs == 0) ptx::barrier_sync(1 + consumer, gemm::kWarpgroup);
  // All our slabs have arrived: the other consumer's products may queue behind ours.
  if (t == 0) ptx::mbarrier_arrive(&s.order[consumer ^ 1]);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(c.v);
  if (!Tile::LeftMn || w.slabs > 0) gemm::release<Tile>(s, last, t);
}

// The warp's rows of the tile: 16 rows and 64 columns at a time through its staging, from there 16 bytes a lane. Rows behind the
// expert's last belong to the next one: they are neither read nor written.
template <class T, class Tile>
__device__ inline void store(gemm::Ring<Tile>& s, const gemm::Sums<Tile>& c, const Work<T>& w, int warp, int lane) {
  const gemm::ProductArgs<T>& p = w.product;
  const Leaving<T> leaving = {p.accumulate != 0};
  gemm::Store<Tile, Leaving<T>> out = {leaving, s, lane, warp, 0, 0};
  const gemm::TileBias<T> bias = {p.bias + w.col0, p.bias ? p.n - w.col0 : 0};
  unsigned char* staging = s.out[warp][0];
#pragma unroll
  for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
    for (int q = 0; q < Tile::Chunks; ++q) {
      const int row = w.row0 + out.row_of(i) + lane / 8, col = w.col0 + q * Tile::ChunkN + lane % 8 * 8;
      T* to = p.out + (long long)row * p.n + col;
      const auto exchange = [&](bool load) {
#pragma unroll
        for (int h = 0; h < gemm::kStoreRows; h += 4) {
          auto* here = reinterpret_cast<uint4*>(staging + gemm::staging_offset<Tile>(lane / 8 + h, lane % 8));
          auto* there = reinterpret_cast<uint4*>(to + (long long)h * p.n);
          if (row + h >= p.m || col >= p.n) continue;
          if (load) *here = *there;
          else *there = *here;
        }
        __syncwarp();
      };
      if (leaving.accumulate) exchange(true);
#pragma unroll
      for (int g = 0; g < Tile::ChunkN / 16; ++g) {
        const int at = q * Tile::ChunkN + 16 * g;
        out.stage(&c.v[i][at / 2], bias, at, staging, g);
      }
      __syncwarp();
      exchange(false);
    }
}

// One consumer warpgroup; t: thread in it.
template <class T, gemm::Pass P, class Tile>
__device__ inline void consume(const TensorExpertArgs<T>& a, gemm::Ring<Tile>& s, int consumer, int t) {
  const int clusters = int(gridDim.x) / Tile::Cluster, rank = gemm::rank_in_cluster<Tile>();
  Walk<T, P, Tile> walk = {a.experts};
  gemm::RingPlace at;
  uint32_t order = consumer == 0;
  int turn = 0;
  for (int u = int(blockIdx.x) / Tile::Cluster; walk.find(u); u += clusters, turn ^= 1) {
    const Work<T> w = walk.work(u, rank);
    if (turn != consumer) {  // the other's tile
      for (int k = 0; k < w.slabs; ++k) at.template next<Tile::Stages>();
      continue;
    }
    // A parity wait cannot tell a slot one lap behind from a full one: we start when the other has seen all its slabs.
    ptx::mbarrier_wait(&s.order[consumer], order), order ^= 1;
    gemm::Sums<Tile> c;
    accumulate<T, Tile>(s, c, w, at, consumer, t);
    if (Tile::LeftMn && w.slabs == 0) c = {};  // an expert without rows
    store<T, Tile>(s, c, w, consumer * 4 + t / 32, t % 32);
  }
}

template <class T, gemm::Pass P, class Tile>
__device__ inline void tensor_product(const TensorExpertArgs<T>& a) {
  auto& s = shared_memory<gemm::Ring<Tile>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used");
  static_assert(Tile::PingPong && Tile::BlockN % 64 == 0, "a consumer's own tile, atoms of 64 columns");
  const int tid = int(threadIdx.x), group = ptx::warp_uniform(tid / gemm::kWarpgroup);
  if (tid == 0) {
    gemm::start_barriers<Tile, Leaving<T>>(s);
    ptx::tma_prefetch(&a.left);
    ptx::tma_prefetch(&a.right);
  }
  ptx::cluster_start();
  if (group == 0) {
    ptx::setmaxnreg_dec<gemm::kProducerRegs>();
    if (ptx::elect_of_warp(0)) produce<T, P, Tile>(a, s);
  } else {
    ptx::setmaxnreg_inc<gemm::kConsumerRegs>();
    consume<T, P, Tile>(a, s, group - 1, tid % gemm::kWarpgroup);
  }
}

}  // namespace moe
