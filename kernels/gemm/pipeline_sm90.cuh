// Idea: one persistent Hopper pipeline: a producer thread fills a ring of slabs by TMA, two consumer warpgroups multiply
// (wgmma) and store (TMA). What a slab is and where a tile goes is the problem's business.
//
// A Problem P has: Element; raster(); units(); unit(u, rank); prefetch(); cursor(unit, rank): what the
// producer remembers of a unit; load(cursor, left, right, barrier, rank): starts the copies of the unit's next slab;
// extra_steps(e): K-steps of the adapter's e-th slab; and what epilogue_sm90.cuh asks for. It may have leading(): units
// that the same ring serves before the tiles, as adapted_sm90.cuh's.
#pragma once
#include "gemm/epilogue_sm90.cuh"
#include "gemm/tile_sm90.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace gemm {

template <class Tile>
__device__ inline int rank_in_cluster() {
  return Tile::Cluster > 1 ? int(ptx::cluster_rank()) : 0;
}

// Units before the tiles.
template <class Tile, class P>
__device__ inline int leading_units(const P& problem) {
  if constexpr (requires { problem.leading(); }) return problem.leading().template units<Tile>();
  else return 0;
}

// One thread, elected.
template <class Tile, class P>
__device__ inline void produce(const P& problem, Ring<Tile>& s) {
  const int clusters = int(gridDim.x) / Tile::Cluster, rank = rank_in_cluster<Tile>();
  RingPlace at;
  int u = int(blockIdx.x) / Tile::Cluster;
  const int leading = leading_units<Tile>(problem);
  if constexpr (requires { problem.leading(); })
    for (; u < leading; u += clusters) problem.leading().template produce<Tile>(s, at, u, rank);
  for (u -= leading; u < problem.units(); u += clusters) {
    const Unit w = problem.unit(u, rank);
    auto cursor = problem.cursor(w, rank);
    for (int k = 0; k < w.slabs; ++k) {
      ptx::mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
      ptx::mbarrier_expect_tx(&s.full[at.slot], Tile::LeftBytes + Tile::RightBytes);
      problem.load(cursor, s.left[at.slot], s.right[at.slot], &s.full[at.slot], rank);
      at.template next<Tile::Stages>();
    }
  }
  // Others of the cluster arrive at our slots, so we stay until all are released; what they copied into our memory our
  // consumers have read by then. A barrier of the cluster in its place would cost a MEMBAR over the GPU.
  if constexpr (Tile::Cluster > 1)
    for (int i = 0; i < Tile::Stages; ++i, at.template next<Tile::Stages>())
      ptx::mbarrier_wait(&s.empty[at.slot], at.phase ^ 1);
}

// One K-step of 16 into all of a consumer's accumulators.
template <class T, class Tile>
__device__ inline void multiply_step(Sums<Tile>& c, uint32_t left, uint32_t right, int step,
                                     bool accumulate) {
  constexpr int GroupBytes = 8 * Tile::AtomN * 2;  // 8 K-rows of an MN-major atom
  const uint64_t b = Tile::RightMn ? ptx::wgmma_descriptor(right + step * 2 * GroupBytes, Tile::AtomBytes,
                                                           GroupBytes, Tile::AtomN * 2)
                                   : ptx::wgmma_descriptor(right + step * kMmaK * 2, 16, 1024, 128);
#pragma unroll
  for (int i = 0; i < Tile::MmaM; ++i) {
    const uint32_t rows =
        left + i * 64 * 128;  // 64 rows K-major, or one (64, 64) MN-major atom: 8192 bytes both
    const uint64_t a = Tile::LeftMn ? ptx::wgmma_descriptor(rows + step * 2 * 1024, 8192, 1024, 128)
                                    : ptx::wgmma_descriptor(rows + step * kMmaK * 2, 16, 1024, 128);
    ptx::wgmma_ss<T, Tile::BlockN, Tile::LeftMn, Tile::RightMn>(c.v[i], a, b, accumulate);
  }
}

// Tells every block that fills our slot that we have read it; t: thread in the warpgroup.
template <class Tile>
__device__ inline void release(Ring<Tile>& s, int slot, int t) {
  if constexpr (Tile::Cluster == 1) {
    if (t == 0) ptx::mbarrier_arrive(&s.empty[slot]);
  } else if (t < Tile::Cluster) {
    ptx::mbarrier_arrive_cluster(&s.empty[slot], t);
  }
}

// The unit's slabs into c; row0: this consumer's first row of the tile.
template <class Tile, class P>
__device__ inline void accumulate(const P& problem, Ring<Tile>& s, Sums<Tile>& c, const Unit& w,
                                  RingPlace& at, int row0, int consumer, int t) {
  using T = typename P::Element;
  int last = 0;
  for (int k = 0; k < w.base; ++k) {
    ptx::mbarrier_wait(&s.full[at.slot], at.phase);
    const uint32_t left = ptx::smem_address(s.left[at.slot]) + row0 * 128,
                   right = ptx::smem_address(s.right[at.slot]);
    ptx::wgmma_fence();
#pragma unroll
    for (int i = 0; i < kSlab / kMmaK; ++i) multiply_step<T, Tile>(c, left, right, i, k + i > 0);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();  // slab k - 1 is done, k stays in flight
    if (k > 0) release<Tile>(s, last, t);
    last = at.slot;
    at.template next<Tile::Stages>();
  }
  for (int k = w.base; k < w.slabs; ++k) {  // the adapter: more K-steps into the same accumulators
    ptx::mbarrier_wait(&s.full[at.slot], at.phase);
    const uint32_t left = ptx::smem_address(s.left[at.slot]) + row0 * 128,
                   right = ptx::smem_address(s.right[at.slot]);
    const int steps = problem.extra_steps(k - w.base);
    ptx::wgmma_fence();
    for (int i = 0; i < steps; ++i) multiply_step<T, Tile>(c, left, right, i, true);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    release<Tile>(s, last, t);
    last = at.slot;
    at.template next<Tile::Stages>();
  }
  // All our slabs have arrived: the other consumer's products may queue behind ours.
  if (Tile::PingPong && t == 0) ptx::mbarrier_arrive(&s.order[consumer ^ 1]);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(c.v);  // no use of the sums moves before the wait
  release<Tile>(s, last, t);
}

// One consumer warpgroup; t: thread in it.
template <class Tile, class P>
__device__ inline void consume(const P& problem, Ring<Tile>& s, int consumer, int t) {
  const int clusters = int(gridDim.x) / Tile::Cluster, rank = rank_in_cluster<Tile>();
  Store<Tile, P> store = {
      problem, s, t % 32, consumer * 4 + t / 32, Tile::PingPong ? 0 : consumer * Tile::GroupM, 0};
  RingPlace at;
  uint32_t order =
      consumer == 0;  // raster() is read from the arguments each time: a copy costs registers, and spills
  int turn = 0, u = int(blockIdx.x) / Tile::Cluster;
  const int leading = leading_units<Tile>(problem);
  if constexpr (requires { problem.leading(); })
    for (; u < leading; u += clusters) problem.leading().template consume<Tile>(s, at, u, rank, consumer, t);
  Sums<Tile> c;
  for (u -= leading; u < problem.units(); u += clusters, turn ^= 1) {
    const Unit w = problem.unit(u, rank);
    if (Tile::PingPong && turn != consumer) {  // the other's tile
      for (int k = 0; k < w.slabs; ++k) at.template next<Tile::Stages>();
      continue;
    }
    if (problem.raster().splits == 1) store.begin(w);
    // A parity wait cannot tell a slot one lap behind from a full one, so a consumer starts only when the other has
    // seen all its slabs.
    if (Tile::PingPong) ptx::mbarrier_wait(&s.order[consumer], order), order ^= 1;
    accumulate<Tile>(problem, s, c, w, at, store.row0, consumer, t);
    if (problem.raster().splits > 1) {
      const Piece piece = {Tile::PingPong ? w.tile : w.tile * kConsumers + consumer, w.split,
                           problem.raster().splits};
      if (!join_ranges<Tile>(c, problem.parts(), problem.counters(), piece, consumer, t)) continue;
      store.begin(w);
    }
    store.tile(c, w);
  }
  if (ptx::elect_one()) ptx::tma_store_wait_read<0>();  // staging must outlive the stores' reads
}

template <class Tile, class P>
__device__ inline void start_barriers(Ring<Tile>& s) {
  for (int i = 0; i < Tile::Stages; ++i) {
    ptx::mbarrier_init(&s.full[i], 1);
    ptx::mbarrier_init(&s.empty[i], (Tile::PingPong ? 1 : kConsumers) * Tile::Cluster);
  }
  for (int i = 0; i < kConsumers * 4 * 2; ++i) ptx::mbarrier_init(&s.residual[i / 2][i % 2], 1);
  for (int i = 0; i < kConsumers; ++i) ptx::mbarrier_init(&s.order[i], 1);
  ptx::mbarrier_fence_init();
}

// The body of a kernel.
template <class Tile, class P>
__device__ inline void pipeline(const P& problem) {
  auto& s = shared_memory<Ring<Tile>>();
  static_assert(sizeof(s) == Tile::SharedBytes, "the record says what is used");
  const int tid = int(threadIdx.x);
  // From threadIdx.x / 128 alone ptxas cannot see that a warp agrees: it serialises every wgmma (C7520) and spills.
  const int group = ptx::warp_uniform(tid / kWarpgroup);
  if (tid == 0) {
    start_barriers<Tile, P>(s);
    problem.prefetch();
  }
  if constexpr (Tile::Cluster > 1) ptx::cluster_start();
  else __syncthreads();
  if (group == 0) {
    ptx::setmaxnreg_dec<kProducerRegs>();
    if (ptx::elect_of_warp(0)) produce<Tile>(problem, s);
  } else {
    ptx::setmaxnreg_inc<kConsumerRegs>();
    consume<Tile>(problem, s, group - 1, tid % kWarpgroup);
  }
}

}  // namespace gemm
