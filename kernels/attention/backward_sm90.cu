// attention backward, bf16/f16, Hopper, D = 64.   Q, dQ: (N, Lq, H, 64)  K, V, dK, dV: (N, Lk, H, 64).
// dV = P^T dO,  dS = P o (dO V^T - delta),  dK = scale dS^T Q,  dQ = scale dS K;  P is recomputed from LSE.
// Two kinds of work item in one persistent launch, each a chain of register operands: the accumulators S and
// dP become P and dS, the operands of the next wgmma, with no trip through shared memory and no barrier
// between warpgroups.
//         resident (R0, R1)   streamed (X0, X1)   products of a (128 x 128) block          cost
//   kv:   K, V                Q, dO               S^T, dP^T, dV += P^T dO, dK += dS^T Q    4
//   q:    Q, dO               K, V                S, dP, dQ += dS K                        3
// Work: 14*N*H*Lq*Lk*64 flop (7 products; 5 are the minimum), 2 exp a score. Why recompute: NOTES.md.
//   SDXL N=1 H=10 L=4096: 150 GFLOP done, 107 useful; tensor 158 us, MUFU 91 us, HBM 45 MB = 11 us:
//   tensor-bound.
// Tile: 128 x 128, 2 consumer warpgroups of 64 rows x 240 registers + producer 24; the resident pair is
//   double-buffered, 3 stages of the streamed pair; 196 KiB, 1 block/SM.
// Predicted, not measured: 4096x4096x10 N=1 330-400 us; 1024x1024x20 N=1 50-62 us.
// Determinism: bitwise, no atomics, no semaphores.   Requires: Lq, Lk >= 1, not causal; prepare.cu before,
//   its sum after where the queries are split (77 text keys).
#include "attention/wgmma_tile.cuh"
#include "common/shared.cuh"

namespace attention {

// Turns: the warpgroups issue their products in turn, as in forward.
template <class T_, bool Turns_>
struct BackwardTile {
  using T = T_;
  static constexpr bool Turns = Turns_;
  static constexpr int Stages = 3, HeadDim = 64, Consumers = 2, BlockR = 64 * Consumers, BlockX = 128;
  static constexpr int ProducerRegs = 24, ConsumerRegs = 240;
  struct alignas(1024) Shared {
    T r[2][2][BlockR * 64];          // (128, 64): double buffer, pair
    T x[Stages][2][BlockX * 64];     // (128, 64): stage, pair
    T out[Consumers][2][64 * 64];    // staging of dK, dV or dQ: (64, 64) a consumer
    float stats[Stages][2][BlockX];  // kv: lse (powers of two) and delta of the streamed queries
    uint64_t r_full[2], r_empty[2], x_full[Stages], x_empty[Stages];
  };
  static constexpr int BlockRows = BlockR, BlockCols = BlockX, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(Stages >= 2, "the next S is issued before this stage is released");
  static_assert(BlockR == BlockX, "one tensor map an input serves as resident and as streamed operand");
  static_assert(SharedBytes <= 227 * 1024, "shared memory of one block");
};

struct BackwardMaps {
  ptx::TensorMap q, k, v, d_out, dq, dk, dv;  // boxes of 64 columns, 1 head; rows: inputs 128, gradients 64
  const float *lse2, *delta;                  // (N, H, stat_len) of prepare.cu
  float* partial;                             // (splits, N, H, 2, k_blocks * 128, 64) where splits > 1
  void *to_q, *to_k, *to_v;                   // the gradients; null: not wanted
  int len_q, len_k, stat_len, heads, samples, splits;
  float scale;
  int add_q, add_k, add_v;  // 1: the gradient is added to the old content
  int unused[10];
};

// Named barriers: Store + consumer, Turn + consumer.
enum class Bar : int { Store = 1, Turn = 3 };
__device__ __forceinline__ int id(Bar bar, int consumer) { return int(bar) + consumer; }

// r0: first row of the resident block; [x_begin, x_end): streamed blocks.
struct Work { bool for_q; int r0, x_begin, x_end, head, sample, split; };

// The dearer items come first, so that a strided static schedule evens out.
struct Items {
  int k_blocks, q_blocks, kv, total;
  __device__ __forceinline__ Items(const BackwardMaps& a) {
    k_blocks = (a.len_k + 127) / 128, q_blocks = (a.len_q + 127) / 128;
    const int heads = a.heads * a.samples;
    kv = a.to_k || a.to_v ? k_blocks * heads * a.splits : 0;
    total = kv + (a.to_q ? q_blocks * heads : 0);
  }
  __device__ __forceinline__ Work work(int item, const BackwardMaps& a) const {
    const bool for_q = item >= kv;
    if (for_q) item -= kv;
    const int blocks = for_q ? q_blocks : k_blocks, heads = a.heads * a.samples;
    const int head = item / blocks % heads, split = item / blocks / heads;
    return {for_q, item % blocks * 128, for_q ? 0 : q_blocks * split / a.splits,
            for_q ? k_blocks : q_blocks * (split + 1) / a.splits, head % a.heads, head / a.heads, split};
  }
};

template <class Tl>
__device__ __forceinline__ void produce(typename Tl::Shared& s, const BackwardMaps& a) {
  constexpr int TileBytes = 128 * RowBytes, StatBytes = Tl::BlockX * 4;
  const Items items(a);
  Ring<2> rr;
  Ring<Tl::Stages> xr;
  for (int item = int(blockIdx.x); item < items.total; item += int(gridDim.x), rr.next()) {
    const Work w = items.work(item, a);
    const ptx::TensorMap *r0 = w.for_q ? &a.q : &a.k, *r1 = w.for_q ? &a.d_out : &a.v;
    const ptx::TensorMap *x0 = w.for_q ? &a.k : &a.q, *x1 = w.for_q ? &a.v : &a.d_out;
    uint64_t* r_full = &s.r_full[rr.stage];
    ptx::mbarrier_wait(&s.r_empty[rr.stage], rr.phase ^ 1);
    ptx::mbarrier_expect_tx(r_full, 2 * TileBytes);
    ptx::tma_load_4d(s.r[rr.stage][0], r0, r_full, 0, w.head, w.r0, w.sample);
    ptx::tma_load_4d(s.r[rr.stage][1], r1, r_full, 0, w.head, w.r0, w.sample);
    const long long stat0 = ((long long)w.sample * a.heads + w.head) * a.stat_len;
    for (int x = w.x_begin; x < w.x_end; ++x, xr.next()) {
      uint64_t* full = &s.x_full[xr.stage];
      ptx::mbarrier_wait(&s.x_empty[xr.stage], xr.phase ^ 1);
      ptx::mbarrier_expect_tx(full, 2 * TileBytes + (w.for_q ? 0 : 2 * StatBytes));
      ptx::tma_load_4d(s.x[xr.stage][0], x0, full, 0, w.head, x * 128, w.sample);
      ptx::tma_load_4d(s.x[xr.stage][1], x1, full, 0, w.head, x * 128, w.sample);
      if (w.for_q) continue;
      ptx::bulk_load(s.stats[xr.stage][0], a.lse2 + stat0 + x * 128, StatBytes, full);
      ptx::bulk_load(s.stats[xr.stage][1], a.delta + stat0 + x * 128, StatBytes, full);
    }
  }
}

// S -> P = exp2(S * scale_log2 - lse) in place. ForQ: rows are queries, lse in two registers; else columns
// are, lse read from shared memory (a broadcast).
template <bool ForQ>
__device__ __forceinline__ void to_probabilities(float (&s)[64], float scale_log2, const float (&row_lse)[2],
                                                 uint32_t sLse, int keys_left) {
  const int t = group_column();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    const float2 l = ForQ ? float2{} : ptx::load_shared_v2(sLse + (n * 8 + t) * 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * n + i];
      x = ptx::exp2_approx(__fmaf_rn(x, scale_log2, -(ForQ ? row_lse[i >> 1] : i & 1 ? l.y : l.x)));
    }
  }
  if (ForQ && keys_left < 128)  // K is zero past Lk, but inf * 0 must not happen
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if ((i >> 2) * 8 + t + (i & 1) >= keys_left) s[i] = 0.0f;
}

// dP -> dS = P o (dP - delta) in place.
template <bool ForQ>
__device__ __forceinline__ void to_d_scores(float (&dp)[64], const float (&p)[64],
                                            const float (&row_delta)[2], uint32_t sDelta) {
  const int t = group_column();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    const float2 d = ForQ ? float2{} : ptx::load_shared_v2(sDelta + (n * 8 + t) * 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = 4 * n + i;
      dp[j] = p[j] * (dp[j] - (ForQ ? row_delta[i >> 1] : i & 1 ? d.y : d.x));
    }
  }
}

// acc = acc * scale + the old content of the 64 gradient rows of this warpgroup, where `add`.
template <class T>
__device__ __forceinline__ void add_old(float (&acc)[32], float scale, const void* to, const Work& w, int len,
                                        int heads, int wg, bool add) {
  const int row = w.r0 + wg * 64 + group_row();
  const T* old = static_cast<const T*>(to) + (((long long)w.sample * len + row) * heads + w.head) * 64;
#pragma unroll
  for (int i = 0; i < 32; ++i) acc[i] *= scale;
  if (!add) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= len) continue;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const T* at = old + (long long)8 * h * heads * 64 + n * 8 + group_column();
      const float2 x = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(at));
      acc[4 * n + 2 * h] += x.x, acc[4 * n + 2 * h + 1] += x.y;
    }
  }
}

// f32 sums of one split of the queries.
__device__ __forceinline__ void store_partial(const BackwardMaps& a, const Work& w, const float (&dk)[32],
                                              const float (&dv)[32], int wg) {
  const long long pad = (a.len_k + 127) / 128 * 128, row = w.r0 + wg * 64 + group_row();
  const long long head = ((long long)w.split * a.samples + w.sample) * a.heads + w.head;
  float* to = a.partial + (head * 2 * pad + row) * 64 + group_column();  // (2, pad, 64) of this head
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float* k = to + 8 * h * 64 + n * 8;
      const int i = 4 * n + 2 * h;
      *reinterpret_cast<float2*>(k) = make_float2(dk[i] * a.scale, dk[i + 1] * a.scale);
      *reinterpret_cast<float2*>(k + pad * 64) = make_float2(dv[i], dv[i + 1]);
    }
}

// dQ, or dK and dV, of one warpgroup: through staging and TMA (rows past the end are clipped), or as partial
// sums.
template <class Tl, bool ForQ>
__device__ __forceinline__ void store(typename Tl::Shared& s, const BackwardMaps& a, const Work& w,
                                      float (&acc)[32], float (&acc_v)[32], int wg) {
  using T = typename Tl::T;
  if (!ForQ && a.splits > 1) return store_partial(a, w, acc, acc_v, wg);
  const float one[2] = {1.0f, 1.0f};
  const int len = ForQ ? a.len_q : a.len_k;
  const bool first = threadIdx.x % 128 == 0, to_v = !ForQ && a.to_v, to_acc = ForQ || a.to_k;
  if (to_acc) add_old<T>(acc, a.scale, ForQ ? a.to_q : a.to_k, w, len, a.heads, wg, ForQ ? a.add_q : a.add_k);
  if (to_v) add_old<T>(acc_v, 1.0f, a.to_v, w, len, a.heads, wg, a.add_v);
  if (first) ptx::tma_store_wait_read<0>();  // the previous item's store has left the staging buffer
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  stage_tile(s.out[wg][0], acc, one);
  if (!ForQ) stage_tile(s.out[wg][1], acc_v, one);
  ptx::fence_proxy_async();
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  if (!first) return;
  if (to_acc) ptx::tma_store_4d(ForQ ? &a.dq : &a.dk, s.out[wg][0], 0, w.head, w.r0 + wg * 64, w.sample);
  if (to_v) ptx::tma_store_4d(&a.dv, s.out[wg][1], 0, w.head, w.r0 + wg * 64, w.sample);
  ptx::tma_store_commit();
}

// The registers of one consumer at work on one item.
template <class Tl, bool ForQ>
struct Chain {
  using T = typename Tl::T;
  typename Tl::Shared& s;
  float scale_log2;
  float score[64], dp[64];              // (64, 128)
  float acc[32], acc_v[32];             // (64, 64): dQ or dK; dV
  uint32_t p[8][4], ds[8][4];           // (64, 128) packed
  float row_lse[2] = {}, row_delta[2] = {};

  __device__ __forceinline__ Chain(typename Tl::Shared& s, const BackwardMaps& a, const Work& w, int wg)
      : s(s), scale_log2(a.scale * kLog2e) {
#pragma unroll
    for (int i = 0; i < 32; ++i) acc[i] = acc_v[i] = 0.0f;
    if (!ForQ) return;
    const long long stat = ((long long)w.sample * a.heads + w.head) * a.stat_len;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const long long row = stat + w.r0 + wg * 64 + group_row() + 8 * h;
      row_lse[h] = a.lse2[row], row_delta[h] = a.delta[row];
    }
  }

  // P while dP is still running, then dS, both packed as operands. Leaves nothing in flight.
  __device__ __forceinline__ void elementwise(const Ring<Tl::Stages>& xr, int keys_left) {
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    const uint32_t sStats = ptx::smem_address(s.stats[xr.stage][0]);
    to_probabilities<ForQ>(score, scale_log2, row_lse, sStats, keys_left);
    // Returns at once; it ends the basic block, or ptxas hoists the wait for dP over the exponentials.
    ptx::reg_fence(score);
    ptx::mbarrier_wait(&s.x_full[xr.stage], xr.phase);
    ptx::wgmma_wait<0>();
    ptx::reg_fence(dp);
    to_d_scores<ForQ>(dp, score, row_delta, sStats + Tl::BlockX * 4);
    if (!ForQ) pack_tile<T>(p, score);
    pack_tile<T>(ds, dp);
  }

  // dV += P^T dO;  dK += dS^T Q or dQ += dS K.
  __device__ __forceinline__ void accumulate(int stage) {
    if (!ForQ) multiply_add<T, 128, 64>(acc_v, p, s.x[stage][1]);
    multiply_add<T, 128, 64>(acc, ds, s.x[stage][0]);
    ptx::wgmma_commit();
  }

  // After the wait for those products.
  __device__ __forceinline__ void accumulated(int stage) {
    ptx::reg_fence(acc);
    ptx::reg_fence(ds);
    if (!ForQ) ptx::reg_fence(acc_v), ptx::reg_fence(p);
    release(&s.x_empty[stage]);
  }
};

template <class Tl, bool ForQ>
__device__ __forceinline__ void consume(typename Tl::Shared& s, const BackwardMaps& a, const Work& w,
                                        const Ring<2>& rr, Ring<Tl::Stages>& xr, int wg) {
  using T = typename Tl::T;
  const T *sR0 = s.r[rr.stage][0] + wg * 64 * 64, *sR1 = s.r[rr.stage][1] + wg * 64 * 64;  // (64, 64)
  Chain<Tl, ForQ> c(s, a, w, wg);
  ptx::mbarrier_wait(&s.r_full[rr.stage], rr.phase);
  ptx::mbarrier_wait(&s.x_full[xr.stage], xr.phase);
  multiply_nt<T, 64, 128>(c.score, sR0, s.x[xr.stage][0]);
  multiply_nt<T, 64, 128>(c.dp, sR1, s.x[xr.stage][1]);
  c.elementwise(xr, a.len_k - w.x_begin * 128);
  // Rotated: nothing is in flight over the back edge, or ptxas serialises every wgmma (C7514).
  for (int x = w.x_begin + 1; x < w.x_end; ++x) {
    const int stage = xr.stage;
    xr.next();
    ptx::mbarrier_wait(&s.x_full[xr.stage], xr.phase);
    if (Tl::Turns) ptx::barrier_sync(id(Bar::Turn, wg), 256);
    c.accumulate(stage);
    multiply_nt<T, 64, 128>(c.score, sR0, s.x[xr.stage][0]);
    ptx::wgmma_wait<1>();
    c.accumulated(stage);  // S runs meanwhile
    multiply_nt<T, 64, 128>(c.dp, sR1, s.x[xr.stage][1]);
    if (Tl::Turns) ptx::barrier_arrive(id(Bar::Turn, wg ^ 1), 256);
    c.elementwise(xr, a.len_k - x * 128);
  }
  c.accumulate(xr.stage);
  ptx::wgmma_wait<0>();
  c.accumulated(xr.stage);
  xr.next();
  release(&s.r_empty[rr.stage]);
  store<Tl, ForQ>(s, a, w, c.acc, c.acc_v, wg);
}

template <class Tl>
__device__ __forceinline__ void start(typename Tl::Shared& s) {
  if (threadIdx.x == 0) {
    constexpr int Warps = 4 * Tl::Consumers;
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(&s.r_full[i], 1);
      ptx::mbarrier_init(&s.r_empty[i], Warps);
    }
    for (int i = 0; i < Tl::Stages; ++i) {
      ptx::mbarrier_init(&s.x_full[i], 1);
      ptx::mbarrier_init(&s.x_empty[i], Warps);
    }
    ptx::mbarrier_fence_init();
  }
  __syncthreads();
}

template <class Tl>
__device__ __forceinline__ void backward(const BackwardMaps& a) {
  auto& s = shared_memory<typename Tl::Shared>();
  const int wg = int(threadIdx.x) / 128 - 1;
  start<Tl>(s);
  if (wg < 0) {
    ptx::setmaxnreg_dec<Tl::ProducerRegs>();
    if (ptx::elect_of_warp(0)) produce<Tl>(s, a);
    return;
  }
  ptx::setmaxnreg_inc<Tl::ConsumerRegs>();
  const Items items(a);
  Ring<2> rr;
  Ring<Tl::Stages> xr;
  if (Tl::Turns && wg == 1) ptx::barrier_arrive(id(Bar::Turn, 0), 256);  // consumer 0 begins
  for (int item = int(blockIdx.x); item < items.total; item += int(gridDim.x), rr.next()) {
    const Work w = items.work(item, a);
    if (w.for_q) consume<Tl, true>(s, a, w, rr, xr, wg);
    else consume<Tl, false>(s, a, w, rr, xr, wg);
  }
  if (Tl::Turns && wg == 0) ptx::barrier_sync(id(Bar::Turn, 0), 256);  // leave no arrival pending
  if (threadIdx.x % 128 == 0) ptx::tma_store_wait_read<0>();  // shared memory must outlive the last store
}

template <class T> using Free = BackwardTile<T, false>;
template <class T> using Turns = BackwardTile<T, true>;

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_sm90_bf16, Free<bf16>, BackwardMaps, backward<Free<bf16>>)
EXPORT(attention_backward_sm90_f16, Free<f16>, BackwardMaps, backward<Free<f16>>)
EXPORT(attention_backward_sm90_turns_bf16, Turns<bf16>, BackwardMaps, backward<Turns<bf16>>)
EXPORT(attention_backward_sm90_turns_f16, Turns<f16>, BackwardMaps, backward<Turns<f16>>)
