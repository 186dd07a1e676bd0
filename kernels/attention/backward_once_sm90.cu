// attention backward in one pass, bf16/f16, Hopper, D = 64.   Q, dQ: (N, Lq, H, 64)  K, V, dK, dV: (N, Lk, H, 64).
// dV = P^T dO,  dS = P o (dO V^T - delta),  dK = scale dS^T Q,  dQ = scale dS K;  P is recomputed from LSE.
// A block owns 128 keys and walks over all queries: five products of every (128 x 128) block. S^T and dP^T
// become P and dS in registers, operands of dV and dK; dS^T also goes through shared memory, the operand of dQ,
// which is multiplied a step late: a warpgroup waits for what the other wrote almost a step ago.
// A ring of blocks has the keys of one head (64 blocks at most; of longer heads one part after the other). Its
// blocks begin at different queries and all walk upwards, so at any step each is at queries of its own. What a
// block adds to dQ is added in f32 in the second-level cache, when the counter of those queries says that it is
// its turn: the first stores, the last rounds the sum into dQ and leaves the counter at 0. All blocks of a ring
// run at the same time (the grid has no more than fit), and a block waits only for earlier steps: no deadlock.
// Work: 10*N*H*Lq*Lk*64 flop, 1 exp a score.  Per block of 128 x 128: tensor 2560 clk, shared memory 3080, MUFU 1024.
//   SDXL N=1 H=10 L=4096: 107 GFLOP; tensor 113 us, shared memory 136 us, MUFU 45 us, HBM 45 MB = 11 us, added to
//   dQ in L2 335 MB: bound by shared memory.
// Tile: 128 x 128, 2 consumer warpgroups of 64 keys x 240 registers; of the third warpgroup (24) a warp loads and
//   two add to dQ; K, V and dS double-buffered, 2 stages of Q, dO; 227 KiB, 1 block/SM.
// Predicted, not measured: 4096x4096x10 N=1 300-370 us, N=4 1.0-1.2 ms; 1024x1024x20 N=4 140-170 us.
// Determinism: bitwise; dQ is added in the order of the ring, which is the same wherever 64 blocks run at a time.
// Requires: Lq >= 1, Lk > 128, not causal, prepare.cu before; counters zero before, as they are after.
#include "attention/backward_once_sm90.cuh"

namespace attention {

// Two slots in turn: where number n lies, and its parity there.
__device__ __forceinline__ int slot(int n) { return n & 1; }
__device__ __forceinline__ uint32_t parity(int n) { return n >> 1 & 1; }

// The registers of one consumer. Two values share some where one is gone before the other comes: else they do not fit.
template <class Tl>
struct Once {
  using T = typename Tl::T;
  typename Tl::Shared& s;
  int wg, steps = 0;         // steps done: of this and all earlier items
  uint32_t items[1] = {};    // done
  union {
    float score[64];         // (64 keys, 128 queries), then P
    float dq[32];            // (64 queries, 64)
  };
  union {
    float dp[64];            // (64 keys, 128 queries), then dS
    uint32_t packed[8][2][4];  // operands of 16 queries: dS, P
  };
  float dk[32], dv[32];      // (64 keys, 64)

  __device__ __forceinline__ Once(typename Tl::Shared& s, int wg) : s(s), wg(wg) {}

  // A slot of dS serves every step, and one the end of every item.
  __device__ __forceinline__ int shared(int step) const { return step + int(items[0]); }

  __device__ __forceinline__ const T* resident(int which) const { return s.r[slot(int(items[0]))][which]; }
  __device__ __forceinline__ void scores() {
    multiply_nt<T, 64, 128>(score, resident(0) + wg * 64 * 64, s.x[slot(steps)][0]);
  }
  __device__ __forceinline__ void gradients_of_p() {
    multiply_nt<T, 64, 128>(dp, resident(1) + wg * 64 * 64, s.x[slot(steps)][1]);
  }

  // P while dP is still running, then dS, both packed as operands. Leaves nothing in flight. keys_left: from the
  // first of this warpgroup on.
  __device__ __forceinline__ void elementwise(float scale_log2, int keys_left) {
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    const uint32_t sLse = ptx::smem_address(s.stats[slot(steps)][0]) + group_column() * 4;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const float2 lse = ptx::load_shared_v2(sLse + n * 32);  // a broadcast
#pragma unroll
      for (int i = 0; i < 4; ++i)
        score[4 * n + i] = ptx::exp2_approx(__fmaf_rn(score[4 * n + i], scale_log2, -(i & 1 ? lse.y : lse.x)));
    }
    // Returns at once; it ends the basic block, or ptxas hoists the wait for dP over the exponentials.
    ptx::reg_fence(score);
    ptx::mbarrier_wait(&s.x_full[slot(steps)], parity(steps));
    ptx::wgmma_wait<0>();
    ptx::reg_fence(dp);
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      const float2 delta = ptx::load_shared_v2(sLse + Tl::Block * 4 + n * 32);
#pragma unroll
      for (int i = 0; i < 4; ++i) dp[4 * n + i] = score[4 * n + i] * (dp[4 * n + i] - (i & 1 ? delta.y : delta.x));
    }
    if (keys_left < 64)  // K is zero past Lk, but inf * 0 must not happen
#pragma unroll
      for (int i = 0; i < 64; ++i)
        if (group_row() + (i >> 1 & 1) * 8 >= keys_left) dp[i] = 0.0f;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      uint32_t ds[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) ds[i] = ptx::pack<T>(dp[8 * k + 2 * i], dp[8 * k + 2 * i + 1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        packed[k][0][i] = ds[i];
        packed[k][1][i] = ptx::pack<T>(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
      }
    }
  }

  // dS^T of this warpgroup's keys, for both warpgroups' dQ.
  __device__ __forceinline__ void share() {
    const int n = shared(steps);
    const int lane = ptx::lane_id(), row = wg * 64 + (ptx::warp_id() & 3) * 16 + (lane & 15);
    ptx::mbarrier_wait(&s.ds_empty[slot(n)], parity(n) ^ 1);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      char* line = reinterpret_cast<char*>(s.ds[slot(n)][k / 4]) + row * RowBytes;
      ptx::stmatrix_x4(line + (((k % 4 * 2 + (lane >> 4)) ^ (row & 7)) << 4), packed[k][0]);
    }
    ptx::fence_proxy_async();
    release(&s.ds_full[slot(n)]);
  }

  // dV += P^T dO, dK += dS^T Q of a step.
  __device__ __forceinline__ void accumulate(int step) {
    ptx::reg_fence(dp);
    add_product(dv, 1, s.x[slot(step)][1]);
    add_product(dk, 0, s.x[slot(step)][0]);
    ptx::wgmma_commit();
  }
  __device__ __forceinline__ void add_product(float (&d)[32], int which, const void* b) {
    const uint64_t db = ptx::wgmma_descriptor_mn(b, Tl::Block * RowBytes);
    ptx::reg_fence(d);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) ptx::wgmma_rs<T, 64, 1>(d, packed[k][which], db + k * 16 * RowBytes / 16, true);
  }
  // After the wait for those products.
  __device__ __forceinline__ void accumulated(int step) {
    ptx::reg_fence(dk);
    ptx::reg_fence(dv);
    ptx::reg_fence(dp);
    release(&s.x_empty[slot(step)]);
  }

  // dQ = dS K of a step: (64 queries, 128 keys) by (128, 64), both MN-major.
  __device__ __forceinline__ void multiply_queries(int step) {
    const int n = shared(step);
    ptx::mbarrier_wait(&s.ds_full[slot(n)], parity(n));
    const uint64_t da = ptx::wgmma_descriptor_mn(s.ds[slot(n)][wg], Tl::Block * RowBytes);
    const uint64_t db = ptx::wgmma_descriptor_mn(resident(0), Tl::Block * RowBytes);
    ptx::reg_fence(dq);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k)
      ptx::wgmma_ss<T, 64, 1, 1>(dq, da + k * 16 * RowBytes / 16, db + k * 16 * RowBytes / 16, k > 0);
    ptx::wgmma_commit();
  }
  // After the wait for it: to the warp that adds.
  __device__ __forceinline__ void multiplied_queries(int step) {
    ptx::reg_fence(dq);
    release(&s.ds_empty[slot(shared(step))]);
    ptx::mbarrier_wait(&s.dq_empty[wg], (step & 1) ^ 1);
    auto* to = reinterpret_cast<float4*>(s.dq[wg]) + threadIdx.x % 128;
#pragma unroll
    for (int i = 0; i < 8; ++i)
      to[i * 128] = make_float4(dq[4 * i], dq[4 * i + 1], dq[4 * i + 2], dq[4 * i + 3]);
    ptx::fence_proxy_async();
    release(&s.dq_full[wg]);
  }

  // acc = acc * scale + the old content of this warpgroup's rows, where there is one to add.
  __device__ __forceinline__ void finish(float (&acc)[32], float scale, const void* old, const OnceMaps& a,
                                         const Item& w) {
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] *= scale;
    if (!old) return;
    const int row = w.r0 + wg * 64 + group_row();
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (row + 8 * h >= a.len_k) continue;
      const long long at = ((long long)w.sample * a.len_k + row + 8 * h) * a.heads + w.head;
      const T* from = static_cast<const T*>(old) + at * 64 + group_column();
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 x = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(from + n * 8));
        acc[4 * n + 2 * h] += x.x, acc[4 * n + 2 * h + 1] += x.y;
      }
    }
  }

  // dK and dV, through this warpgroup's rows of the next slot of dS.
  __device__ __forceinline__ void store(const OnceMaps& a, const Item& w) {
    constexpr float one[2] = {1.0f, 1.0f};
    const int n = shared(steps);
    T *sk = s.ds[slot(n)][0] + wg * 64 * 64, *sv = s.ds[slot(n)][1] + wg * 64 * 64;  // (64, 64)
    if (a.to_k) finish(dk, a.scale, a.add_k ? a.to_k : nullptr, a, w);
    if (a.to_v) finish(dv, 1.0f, a.add_v ? a.to_v : nullptr, a, w);
    ptx::mbarrier_wait(&s.ds_empty[slot(n)], parity(n) ^ 1);
    stage_tile(sk, dk, one);
    stage_tile(sv, dv, one);
    ptx::fence_proxy_async();
    ptx::barrier_sync(int(Bar::Store) + wg, 128);
    if (threadIdx.x % 128 == 0) {
      if (a.to_k) ptx::tma_store_4d(&a.dk, sk, 0, w.head, w.r0 + wg * 64, w.sample);
      if (a.to_v) ptx::tma_store_4d(&a.dv, sv, 0, w.head, w.r0 + wg * 64, w.sample);
      ptx::tma_store_commit();
      ptx::tma_store_wait_read<0>();
    }
    // Written and read, as far as the other warpgroup is concerned: nothing there is multiplied.
    release(&s.ds_full[slot(n)]);
    release(&s.ds_empty[slot(n)]);
  }

  __device__ __forceinline__ void run(const OnceMaps& a, const Walk& walk) {
    const float scale_log2 = a.scale * kLog2e;
    const int keys_left = a.len_k - walk.item(a).r0 - wg * 64, end = steps + blocks(a.len_q), item = int(items[0]);
#pragma unroll
    for (int i = 0; i < 32; ++i) dk[i] = dv[i] = 0.0f;
    ptx::mbarrier_wait(&s.r_full[slot(item)], parity(item));
    ptx::mbarrier_wait(&s.x_full[slot(steps)], parity(steps));
    scores();
    gradients_of_p();
    elementwise(scale_log2, keys_left);
    share();
    // Rotated: nothing is in flight over the back edge, or ptxas serialises every wgmma (C7514).
    while (++steps < end) {
      ptx::reg_fence(items);  // what follows from it is computed here, not kept in registers
      ptx::mbarrier_wait(&s.x_full[slot(steps)], parity(steps));
      accumulate(steps - 1);
      scores();
      ptx::wgmma_wait<1>();
      accumulated(steps - 1);  // S runs meanwhile
      gradients_of_p();
      elementwise(scale_log2, keys_left);
      multiply_queries(steps - 1);
      share();  // dQ runs meanwhile
      ptx::wgmma_wait<0>();
      multiplied_queries(steps - 1);
    }
    accumulate(steps - 1);
    multiply_queries(steps - 1);
    ptx::wgmma_wait<0>();
    accumulated(steps - 1);
    release(&s.r_empty[slot(int(items[0]))]);
    multiplied_queries(steps - 1);
    store(a, walk.item(a));
    ++items[0];
  }
};

template <class Tl>
__device__ __forceinline__ void start(typename Tl::Shared& s) {
  if (threadIdx.x == 0) {
    constexpr int Warps = 4 * Tl::Consumers;
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(&s.r_full[i], 1);
      ptx::mbarrier_init(&s.r_empty[i], Warps);
      ptx::mbarrier_init(&s.x_full[i], 1);
      ptx::mbarrier_init(&s.x_empty[i], Warps);
      ptx::mbarrier_init(&s.ds_full[i], Warps);
      ptx::mbarrier_init(&s.ds_empty[i], Warps);
      ptx::mbarrier_init(&s.dq_full[i], 4);
      ptx::mbarrier_init(&s.dq_empty[i], 1);
      ptx::mbarrier_init(&s.sum_full[i], 1);
    }
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
}

template <class Tl>
__device__ __forceinline__ void backward(const OnceMaps& a) {
  auto& s = shared_memory<typename Tl::Shared>();
  const int wg = int(threadIdx.x) / 128 - 1;
  start<Tl>(s);
  if (wg < 0) {
    ptx::setmaxnreg_dec<Tl::ProducerRegs>();
    const int warp = ptx::warp_uniform(ptx::warp_id());
    if (warp == 0) {
      if (ptx::elect_one()) produce<Tl>(s, a);
    } else if (warp <= Tl::Consumers) {
      add_up<Tl>(s, a, warp - 1);
    }
    return;
  }
  ptx::setmaxnreg_inc<Tl::ConsumerRegs>();
  Once<Tl> once(s, wg);
  for (Walk walk(a); walk.next(a);) once.run(a, walk);
}

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_sm90_once_bf16, OnceTile<bf16>, OnceMaps, backward<OnceTile<bf16>>)
EXPORT(attention_backward_sm90_once_f16, OnceTile<f16>, OnceMaps, backward<OnceTile<f16>>)
