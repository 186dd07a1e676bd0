// What blocks of a cluster and warps of a block owe each other: the cluster barrier, distributed shared memory, remote
// arrivals, numbered barriers, elect.sync; whole and with one planted mistake each; compiled for the host only.
#include "common/shared.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/warp.cuh"

namespace selftest {

enum class Slip {
  None, ArriveTwice, WaitOnly, LeaveArrived, LeaveEarly, LeaveBeforeArrivals, RelaxedStore, RelaxedLoad,
  ArrivalStore, NoInitFence, NamedCount, NamedTwice, NamedLeft, ElectPart
};

struct ClusterArgs {
  float* out;  // (2 blocks, 64 threads)
};

template <Slip Plant_>
struct ClusterTile {
  static constexpr Slip Plant = Plant_;
  static constexpr int Threads = 64, BlockRows = 1, BlockCols = Threads, Stages = 1, BlocksPerSm = 1, Cluster = 2;
  struct Shared {
    float own[Threads], got[Threads];
    float half[32];      // of warp 1, for warp 0
    uint64_t read;       // both blocks have read this one's memory
  };
  static constexpr int SharedBytes = sizeof(Shared);
};

// Warp 1 hands a value to warp 0 through barrier 1.
template <Slip Plant>
__device__ float hand_over(float* half, float x) {
  if (ptx::warp_id() == 1) {
    half[ptx::lane_id()] = x;
    ptx::barrier_arrive(1, Plant == Slip::NamedCount ? 32 : 64);
    if (Plant == Slip::NamedTwice) ptx::barrier_arrive(1, 64);
    if (Plant == Slip::NamedLeft) ptx::barrier_arrive(2, 64);
    return 0.0f;
  }
  ptx::barrier_sync(1, 64);
  return half[ptx::lane_id()];
}

// After everyone's stores to the others' memory.
template <Slip Plant>
__device__ void exchange(uint64_t* read, unsigned other) {
  if (Plant == Slip::ArrivalStore) ptx::mbarrier_arrive_cluster(read, other);
  if (Plant == Slip::RelaxedStore || Plant == Slip::RelaxedLoad) ptx::cluster_arrive_relaxed();
  else ptx::cluster_arrive();
  if (Plant == Slip::ArriveTwice) ptx::cluster_arrive();
  ptx::cluster_wait();
  if (Plant == Slip::WaitOnly) ptx::cluster_wait();
}

// out = 1000 (other rank + 1) + 2 t + the other warp's thread, where there is one (warp 0).
template <class Tile>
__device__ void cluster(const ClusterArgs& a) {
  constexpr Slip Plant = Tile::Plant;
  auto& s = shared_memory<typename Tile::Shared>();
  const unsigned rank = ptx::cluster_rank(), other = rank ^ 1;
  const int t = int(threadIdx.x);
  if (t == 0) {
    ptx::mbarrier_init(&s.read, 2);
    if (Plant != Slip::NoInitFence) ptx::mbarrier_fence_init();
  }
  ptx::cluster_start();
  s.own[t] = float(t);
  if (Plant != Slip::RelaxedLoad) ptx::st_cluster_f32(ptx::mapa(&s.got[t], other), 1000.0f * float(rank + 1));
  exchange<Plant>(&s.read, other);
  float x = s.got[t] + float(t) + ptx::ld_cluster_f32(ptx::mapa(&s.own[t], other));
  x += hand_over<Plant>(s.half, float(t));
  __syncthreads();
  if (Plant == Slip::ElectPart && ptx::lane_id() < 16 && ptx::elect_one()) x += 1.0f;
  if (ptx::elect_of_warp(0))
    for (unsigned r = 0; r < 2; ++r) ptx::mbarrier_arrive_cluster(&s.read, r);
  a.out[blockIdx.x * 64 + t] = x;
  if (Plant == Slip::LeaveEarly && rank == 1) return;
  if (Plant == Slip::LeaveEarly) ptx::cluster_sync();
  if (Plant == Slip::LeaveArrived) ptx::cluster_arrive();
  if (Plant != Slip::LeaveBeforeArrivals) ptx::mbarrier_wait(&s.read, 0);
}

}  // namespace selftest

#define CLUSTER(NAME, PLANT)                                   \
  using NAME##_t = selftest::ClusterTile<selftest::Slip::PLANT>; \
  EXPORT(NAME, NAME##_t, selftest::ClusterArgs, selftest::cluster<NAME##_t>)
CLUSTER(cluster_exchange, None)
CLUSTER(cluster_arrive_twice, ArriveTwice)
CLUSTER(cluster_wait_only, WaitOnly)
CLUSTER(cluster_leave_arrived, LeaveArrived)
CLUSTER(cluster_leave_early, LeaveEarly)
CLUSTER(cluster_leave_before_arrivals, LeaveBeforeArrivals)
CLUSTER(cluster_relaxed_store, RelaxedStore)
CLUSTER(cluster_relaxed_load, RelaxedLoad)
CLUSTER(cluster_arrival_store, ArrivalStore)
CLUSTER(cluster_no_init_fence, NoInitFence)
CLUSTER(cluster_named_count, NamedCount)
CLUSTER(cluster_named_twice, NamedTwice)
CLUSTER(cluster_named_left, NamedLeft)
CLUSTER(cluster_elect_part, ElectPart)
