// Backward in one pass: tile and arguments, which keys and queries a block takes when, the warp that loads and those that
// add dQ up in turn. backward_once_sm90.cu says how it goes together.
#pragma once
#include "attention/wgmma_tile.cuh"
#include "common/shared.cuh"
#include "ptx/bulk_add.cuh"
#include "ptx/global.cuh"

namespace attention {

template <class T_>
struct OnceTile {
  using T = T_;
  static constexpr int Stages = 2, Consumers = 2, Block = 64 * Consumers;
  static constexpr int ProducerRegs = 24, ConsumerRegs = 240;
  struct alignas(1024) Shared {
    T r[2][2][Block * 64];          // K, V: double buffer, pair
    T x[Stages][2][Block * 64];     // Q, dO: stage, pair
    T ds[2][Consumers][Block * 64]; // dS^T (128 keys, 64 of the queries): double buffer; dK and dV leave from here
    float dq[Consumers][64 * 64];   // in the order of the accumulators: (8, 128 threads, 4)
    float stats[Stages][2][Block];  // lse (powers of two) and delta of the queries
    uint64_t r_full[2], r_empty[2], x_full[Stages], x_empty[Stages], ds_full[2], ds_empty[2];
    uint64_t dq_full[Consumers], dq_empty[Consumers], sum_full[Consumers];
  };
  static constexpr int BlockRows = Block, BlockCols = Block, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(Stages == 2, "as slot() has it");
  static_assert(SharedBytes <= 227 * 1024, "shared memory of one block");
};

struct OnceMaps {
  ptx::TensorMap q, k, v, d_out, dk, dv;  // boxes of 64 columns, 1 head; rows: inputs 128, gradients 64
  const float *lse2, *delta;              // (N, H, stat_len) of prepare.cu
  float* sums;                            // (N, H, q_blocks, 2, 8, 128, 4): dQ, not scaled
  unsigned* counters;                     // (N, H, q_blocks, 2): turns taken; zero before and after
  void *to_q, *to_k, *to_v;               // the gradients; dk, dv null: not wanted
  int len_q, len_k, stat_len, heads, samples;
  int ring;  // blocks that walk over a head together
  float scale;
  int add_q, add_k, add_v;  // 1: the gradient is added to the old content
  int unused[8];
};

constexpr int SumFloats = 64 * 64, SumBytes = SumFloats * 4;  // dQ of one warpgroup

// Named barriers: Store + consumer.
enum class Bar : int { Store = 1 };

__device__ __forceinline__ int blocks(int rows) { return (rows + 127) / 128; }

// The members of a ring at one head.
struct Item {
  int r0, head, sample;        // first key of this block; of which head
  int before, members, member; // key blocks of the head's earlier rings, of this one; which of them this is
  int queries;                 // blocks of 128

  // A member begins at the queries of its own number: there are at least as many.
  __device__ __forceinline__ int query(int step) const {
    const int i = member + step;
    return i < queries ? i : i - queries;
  }
  // How many blocks are at queries i before this one: earlier rings, then the members that began between it and i.
  __device__ __forceinline__ int turn(int i) const {
    return before + (i < member ? members + i : min(i, members - 1)) - member;
  }
};

// The items of this block: those of its member of every ring, of every head of its group.
struct Walk {
  int at, part = -1;  // head of all samples, which of its rings

  __device__ __forceinline__ Walk(const OnceMaps& a) : at(int(blockIdx.x) / a.ring) {}

  __device__ __forceinline__ bool next(const OnceMaps& a) {
    do {
      if (++part * a.ring >= blocks(a.len_k)) part = 0, at += int(gridDim.x) / a.ring;
      if (at >= a.heads * a.samples) return false;
    } while (part * a.ring + int(blockIdx.x) % a.ring >= blocks(a.len_k));
    return true;
  }
  __device__ __forceinline__ Item item(const OnceMaps& a) const {
    const int member = int(blockIdx.x) % a.ring, before = part * a.ring;
    return {(before + member) * 128, at % a.heads, at / a.heads, before,
            min(a.ring, blocks(a.len_k) - before), member, blocks(a.len_q)};
  }
};

template <class Tl>
__device__ __forceinline__ void produce(typename Tl::Shared& s, const OnceMaps& a) {
  constexpr int TileBytes = 128 * RowBytes, StatBytes = Tl::Block * 4;
  Ring<2> rr;
  Ring<Tl::Stages> xr;
  for (Walk walk(a); walk.next(a); rr.next()) {
    const Item w = walk.item(a);
    uint64_t* r_full = &s.r_full[rr.stage];
    ptx::mbarrier_wait(&s.r_empty[rr.stage], rr.phase ^ 1);
    ptx::mbarrier_expect_tx(r_full, 2 * TileBytes);
    ptx::tma_load_4d(s.r[rr.stage][0], &a.k, r_full, 0, w.head, w.r0, w.sample);
    ptx::tma_load_4d(s.r[rr.stage][1], &a.v, r_full, 0, w.head, w.r0, w.sample);
    const long long stat0 = (long long)walk.at * a.stat_len;
#pragma unroll 1
    for (int step = 0; step < w.queries; ++step, xr.next()) {
      const int row = w.query(step) * 128;
      uint64_t* full = &s.x_full[xr.stage];
      ptx::mbarrier_wait(&s.x_empty[xr.stage], xr.phase ^ 1);
      ptx::mbarrier_expect_tx(full, 2 * (TileBytes + StatBytes));
      ptx::tma_load_4d(s.x[xr.stage][0], &a.q, full, 0, w.head, row, w.sample);
      ptx::tma_load_4d(s.x[xr.stage][1], &a.d_out, full, 0, w.head, row, w.sample);
      ptx::bulk_load(s.stats[xr.stage][0], a.lse2 + stat0 + row, StatBytes, full);
      ptx::bulk_load(s.stats[xr.stage][1], a.delta + stat0 + row, StatBytes, full);
    }
  }
}

// One warp: the finished sums of 64 queries, scaled, rounded, to dQ from `row` on.
template <class T>
__device__ __forceinline__ void round_sums(const float4* sums, const OnceMaps& a, int at, int row) {
  const int sample = at / a.heads, left = a.len_q - row, stride = a.heads * 64;
  T* to = static_cast<T*>(a.to_q) + ((long long)sample * a.len_q + row) * stride + (at - sample * a.heads) * 64;
#pragma unroll 1
  for (int k = 0; k < 64; ++k) {  // columns 8 (k / 8) .. + 7 of the rows 8 (k % 8) .. + 7
    const int r = k % 8 * 8 + ptx::lane_id() / 4;
    if (r >= left) continue;
    const float4 v = sums[k / 2 * 32 + ptx::lane_id()];  // of rows r and r + 8
    float2 x = make_float2((k & 1 ? v.z : v.x) * a.scale, (k & 1 ? v.w : v.y) * a.scale);
    auto* place = reinterpret_cast<uint32_t*>(to + (long long)r * stride + k / 8 * 8 + group_column());
    if (a.add_q) {
      const float2 old = ptx::unpack<T>(*place);
      x.x += old.x, x.y += old.y;
    }
    *place = ptx::pack<T>(x.x, x.y);
  }
}

// One warp adds what consumer `wg` multiplied, in its turn.
template <class Tl>
__device__ __forceinline__ void add_up(typename Tl::Shared& s, const OnceMaps& a, int wg) {
  Ring<1> full, sum;
  for (Walk walk(a); walk.next(a);)
#pragma unroll 1
    for (int step = 0; step < blocks(a.len_q); ++step, full.next()) {
      const Item w = walk.item(a);
      const int i = w.query(step), turn = w.turn(i), place = (walk.at * w.queries + i) * 2 + wg;
      const bool last = turn == blocks(a.len_k) - 1;
      ptx::mbarrier_wait(&s.dq_full[wg], full.phase);
      if (ptx::elect_one()) {
        unsigned* counter = a.counters + place;
        float* sums = a.sums + (long long)place * SumFloats;
        if (turn == 0) {
          ptx::bulk_store(sums, s.dq[wg], SumBytes);
        } else {
          while (ptx::load_acquire(counter) != unsigned(turn)) {
          }
          ptx::fence_proxy_async_global();
          ptx::bulk_add(sums, s.dq[wg], SumBytes);
        }
        ptx::tma_store_commit();
        if (!last) {
          ptx::tma_store_wait_read<0>();
          ptx::mbarrier_arrive(&s.dq_empty[wg]);
        }
        ptx::tma_store_wait<0>();
        ptx::fence_proxy_async_global();
        if (last) {
          ptx::store_relaxed(counter, 0);  // as the next launch expects it
          ptx::mbarrier_expect_tx(&s.sum_full[wg], SumBytes);
          ptx::bulk_load(s.dq[wg], sums, SumBytes, &s.sum_full[wg]);
        } else {
          ptx::store_release(counter, unsigned(turn) + 1);
        }
      }
      __syncwarp();
      if (!last) continue;
      ptx::mbarrier_wait(&s.sum_full[wg], sum.phase);
      sum.next();
      round_sums<typename Tl::T>(reinterpret_cast<const float4*>(s.dq[wg]), a, walk.at, i * 128 + wg * 64);
      release(&s.dq_empty[wg]);
    }
}

}  // namespace attention
