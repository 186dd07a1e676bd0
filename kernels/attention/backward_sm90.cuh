// The backward kernel on Hopper: a producer that loads, consumers with chains of register operands.
#pragma once
#include "attention/wgmma_tile.cuh"
#include "common/shared.cuh"

namespace attention {

// Staging of dK, dV or dQ: (64, 64) a consumer; or its own rows of the resident pair.
template <class T, int Consumers>
struct Staging {
  T out[Consumers][2][64 * 64];
};
template <class T>
struct Staging<T, 0> {};

// Turns: the warpgroups issue their products in turn, as in forward. HeadDim: D, padded with zeros by the tensor maps.
// Exact: D is HeadDim and nothing is hidden; else both are read from the arguments.
template <class T_, bool Turns_, int HeadDim_ = 64, bool Exact_ = true>
struct BackwardTile {
  using T = T_;
  static constexpr bool Turns = Turns_, Exact = Exact_;
  static constexpr int HeadDim = HeadDim_, Chunks = (HeadDim + 63) / 64;
  static constexpr bool OwnStaging = Chunks == 1;  // two chunks leave room for one resident pair and nothing else
  static constexpr int Stages = OwnStaging ? 3 : 2, Buffers = OwnStaging ? 2 : 1;
  static constexpr int Consumers = 2, BlockR = 64 * Consumers, BlockX = 128;
  static constexpr int ProducerRegs = 24, ConsumerRegs = 240;
  struct alignas(1024) Shared {
    T r[Buffers][2][Chunks][BlockR * 64];  // (128, D): buffer, pair, chunks of 64 columns
    T x[Stages][2][Chunks][BlockX * 64];   // (128, D): stage, pair
    Staging<T, OwnStaging ? Consumers : 0> staging;
    alignas(16) float stats[Stages][2][BlockX];  // kv: lse (powers of two) and delta of the streamed queries
    uint64_t r_full[Buffers], r_empty[Buffers], x_full[Stages], x_empty[Stages];
  };
  static constexpr int BlockRows = BlockR, BlockCols = BlockX, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(Stages >= 2, "the next S is issued before this stage is released");
  static_assert(HeadDim % 16 == 0, "k-steps of a product");
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
  int head_dim, causal;     // read where the tile is not exact
  int unused[8];
};

// Named barriers: Store + consumer, Turn + consumer.
enum class Bar : int { Store = 1, Turn = 3 };
__device__ __forceinline__ int id(Bar bar, int consumer) { return int(bar) + consumer; }

// r0: first row of the resident block; [x_begin, x_end): streamed blocks.
struct Work { bool for_q; int r0, x_begin, x_end, head, sample, split; };

// The dearer items come first, so that a strided static schedule evens out.
template <class Tl>
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
    Work w = {for_q, item % blocks * 128, for_q ? 0 : q_blocks * split / a.splits,
              for_q ? k_blocks : q_blocks * (split + 1) / a.splits, head % a.heads, head / a.heads, split};
    if constexpr (!Tl::Exact) skip_hidden(w, a);
    return w;
  }
  // Streamed blocks of which nothing is seen; one is left, or there would be no zeros to store.
  __device__ __forceinline__ void skip_hidden(Work& w, const BackwardMaps& a) const {
    if (!a.causal) return;
    if (w.for_q) w.x_end = min(w.x_end, w.r0 / 128 + 1);
    else w.x_begin = max(w.x_begin, min(w.r0 / 128, w.x_end - 1));
  }
};

template <class Tl>
__device__ __forceinline__ void produce(typename Tl::Shared& s, const BackwardMaps& a) {
  constexpr int TileBytes = Tl::Chunks * 128 * RowBytes, StatBytes = Tl::BlockX * 4;
  const Items<Tl> items(a);
  Ring<Tl::Buffers> rr;
  Ring<Tl::Stages> xr;
  for (int item = int(blockIdx.x); item < items.total; item += int(gridDim.x), rr.next()) {
    const Work w = items.work(item, a);
    const ptx::TensorMap *r0 = w.for_q ? &a.q : &a.k, *r1 = w.for_q ? &a.d_out : &a.v;
    const ptx::TensorMap *x0 = w.for_q ? &a.k : &a.q, *x1 = w.for_q ? &a.v : &a.d_out;
    uint64_t* r_full = &s.r_full[rr.stage];
    ptx::mbarrier_wait(&s.r_empty[rr.stage], rr.phase ^ 1);
    ptx::mbarrier_expect_tx(r_full, 2 * TileBytes);
#pragma unroll
    for (int d = 0; d < Tl::Chunks; ++d) {
      ptx::tma_load_4d(s.r[rr.stage][0][d], r0, r_full, d * 64, w.head, w.r0, w.sample);
      ptx::tma_load_4d(s.r[rr.stage][1][d], r1, r_full, d * 64, w.head, w.r0, w.sample);
    }
    const long long stat0 = ((long long)w.sample * a.heads + w.head) * a.stat_len;
    for (int x = w.x_begin; x < w.x_end; ++x, xr.next()) {
      uint64_t* full = &s.x_full[xr.stage];
      ptx::mbarrier_wait(&s.x_empty[xr.stage], xr.phase ^ 1);
      ptx::mbarrier_expect_tx(full, 2 * TileBytes + (w.for_q ? 0 : 2 * StatBytes));
#pragma unroll
      for (int d = 0; d < Tl::Chunks; ++d) {
        ptx::tma_load_4d(s.x[xr.stage][0][d], x0, full, d * 64, w.head, x * 128, w.sample);
        ptx::tma_load_4d(s.x[xr.stage][1][d], x1, full, d * 64, w.head, x * 128, w.sample);
      }
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

// P of keys that do not exist or lie behind the query becomes 0. r0: first row of the warpgroup.
template <bool ForQ>
__device__ __forceinline__ void hide(float (&p)[64], const BackwardMaps& a, int r0, int x) {
  const int row = r0 + group_row(), column = x * 128 + group_column();
  if (ForQ ? min(a.len_k, a.causal ? r0 + 1 : a.len_k) >= (x + 1) * 128 : !a.causal || x * 128 >= r0 + 63) return;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int r = row + (i >> 1 & 1) * 8, c = column + (i >> 2) * 8 + (i & 1);  // query and key, or key and query
    if (ForQ ? c >= a.len_k || (a.causal && c > r) : c < r) p[i] = 0.0f;
  }
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

// Channels of a head.
template <class Tl>
__device__ __forceinline__ int width(const BackwardMaps& a) { return Tl::Exact ? Tl::HeadDim : a.head_dim; }

// acc = acc * scale + the old content of the 64 gradient rows of this warpgroup, where `add`.
template <class Tl>
__device__ __forceinline__ void add_old(float (&acc)[Tl::HeadDim / 2], float scale, const void* to, const Work& w,
                                        int len, const BackwardMaps& a, int wg, bool add) {
  using T = typename Tl::T;
  const int row = w.r0 + wg * 64 + group_row(), dim = width<Tl>(a);
  const T* old = static_cast<const T*>(to) + (((long long)w.sample * len + row) * a.heads + w.head) * dim;
#pragma unroll
  for (int i = 0; i < Tl::HeadDim / 2; ++i) acc[i] *= scale;
  if (!add) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= len) continue;
#pragma unroll
    for (int n = 0; n < Tl::HeadDim / 8; ++n) {
      if (n * 8 >= dim) continue;
      const T* at = old + (long long)8 * h * a.heads * dim + n * 8 + group_column();
      const float2 x = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(at));
      acc[4 * n + 2 * h] += x.x, acc[4 * n + 2 * h + 1] += x.y;
    }
  }
}

// f32 sums of one split of the queries.
template <class Tl>
__device__ __forceinline__ void store_partial(const BackwardMaps& a, const Work& w, const float (&dk)[Tl::HeadDim / 2],
                                              const float (&dv)[Tl::HeadDim / 2], int wg) {
  const int dim = width<Tl>(a);
  const long long pad = (a.len_k + 127) / 128 * 128, row = w.r0 + wg * 64 + group_row();
  const long long head = ((long long)w.split * a.samples + w.sample) * a.heads + w.head;
  float* to = a.partial + (head * 2 * pad + row) * dim + group_column();  // (2, pad, D) of this head
#pragma unroll
  for (int n = 0; n < Tl::HeadDim / 8; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (n * 8 >= dim) continue;
      float* k = to + 8 * h * dim + n * 8;
      const int i = 4 * n + 2 * h;
      *reinterpret_cast<float2*>(k) = make_float2(dk[i] * a.scale, dk[i + 1] * a.scale);
      *reinterpret_cast<float2*>(k + pad * dim) = make_float2(dv[i], dv[i + 1]);
    }
}

// The staging tile of columns 64 * chunk .. of this warpgroup's first or second gradient.
template <class Tl>
__device__ __forceinline__ typename Tl::T* staging(typename Tl::Shared& s, int buffer, int wg, int pair, int chunk) {
  if constexpr (Tl::OwnStaging) return s.staging.out[wg][pair];
  else return s.r[buffer][pair][chunk] + wg * 64 * 64;
}

template <class Tl>
__device__ __forceinline__ void stage(typename Tl::Shared& s, float (&acc)[Tl::HeadDim / 2], int buffer, int wg,
                                      int pair) {
  constexpr int Whole = Tl::HeadDim / 64, Rest = Tl::HeadDim % 64;
  const float one[2] = {1.0f, 1.0f};
#pragma unroll
  for (int d = 0; d < Whole; ++d)
    stage_tile(staging<Tl>(s, buffer, wg, pair, d), *reinterpret_cast<float(*)[32]>(&acc[32 * d]), one);
  if constexpr (Rest > 0)
    stage_tile(staging<Tl>(s, buffer, wg, pair, Whole), *reinterpret_cast<float(*)[Rest / 2]>(&acc[32 * Whole]), one);
}

// dQ, or dK and dV, of one warpgroup: through staging and TMA (rows past the end are clipped), or as partial
// sums.
template <class Tl, bool ForQ>
__device__ __forceinline__ void store(typename Tl::Shared& s, const BackwardMaps& a, const Work& w,
                                      float (&acc)[Tl::HeadDim / 2], float (&acc_v)[Tl::HeadDim / 2], int buffer,
                                      int wg) {
  if (!ForQ && a.splits > 1) return store_partial<Tl>(a, w, acc, acc_v, wg);
  const int len = ForQ ? a.len_q : a.len_k;
  const bool first = threadIdx.x % 128 == 0, to_v = !ForQ && a.to_v, to_acc = ForQ || a.to_k;
  if (to_acc) add_old<Tl>(acc, a.scale, ForQ ? a.to_q : a.to_k, w, len, a, wg, ForQ ? a.add_q : a.add_k);
  if (to_v) add_old<Tl>(acc_v, 1.0f, a.to_v, w, len, a, wg, a.add_v);
  if (first) ptx::tma_store_wait_read<0>();  // the previous item's store has left the staging buffer
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  stage<Tl>(s, acc, buffer, wg, 0);
  if (!ForQ) stage<Tl>(s, acc_v, buffer, wg, 1);
  ptx::fence_proxy_async();
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  if (!first) return;
#pragma unroll
  for (int d = 0; d < Tl::Chunks; ++d) {
    const auto part = [&](int pair) { return staging<Tl>(s, buffer, wg, pair, d); };
    if (to_acc) ptx::tma_store_4d(ForQ ? &a.dq : &a.dk, part(0), d * 64, w.head, w.r0 + wg * 64, w.sample);
    if (to_v) ptx::tma_store_4d(&a.dv, part(1), d * 64, w.head, w.r0 + wg * 64, w.sample);
  }
  ptx::tma_store_commit();
}

// The registers of one consumer at work on one item.
template <class Tl, bool ForQ>
struct Chain {
  using T = typename Tl::T;
  typename Tl::Shared& s;
  float scale_log2;
  float score[64], dp[64];              // (64, 128)
  float acc[Tl::HeadDim / 2], acc_v[Tl::HeadDim / 2];  // (64, D): dQ or dK; dV
  uint32_t p[8][4], ds[8][4];           // (64, 128) packed
  float row_lse[2] = {}, row_delta[2] = {};

  __device__ __forceinline__ Chain(typename Tl::Shared& s, const BackwardMaps& a, const Work& w, int wg)
      : s(s), scale_log2(a.scale * kLog2e) {
#pragma unroll
    for (int i = 0; i < Tl::HeadDim / 2; ++i) acc[i] = acc_v[i] = 0.0f;
    if (!ForQ) return;
    const long long stat = ((long long)w.sample * a.heads + w.head) * a.stat_len;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const long long row = stat + w.r0 + wg * 64 + group_row() + 8 * h;
      row_lse[h] = a.lse2[row], row_delta[h] = a.delta[row];
    }
  }

  // P while dP is still running, then dS, both packed as operands. Leaves nothing in flight.
  __device__ __forceinline__ void elementwise(const Ring<Tl::Stages>& xr, const BackwardMaps& a, int r0, int x) {
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    const uint32_t sStats = ptx::smem_address(s.stats[xr.stage][0]);
    to_probabilities<ForQ>(score, scale_log2, row_lse, sStats, Tl::Exact ? a.len_k - x * 128 : 128);
    if constexpr (!Tl::Exact) hide<ForQ>(score, a, r0, x);
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
    if (!ForQ) multiply_add<T, 128, Tl::HeadDim>(acc_v, p, s.x[stage][1]);
    multiply_add<T, 128, Tl::HeadDim>(acc, ds, s.x[stage][0]);
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
                                        const Ring<Tl::Buffers>& rr, Ring<Tl::Stages>& xr, int wg) {
  using T = typename Tl::T;
  constexpr int D = Tl::HeadDim;
  const int r0 = w.r0 + wg * 64;
  const T *sR0 = s.r[rr.stage][0][0] + wg * 64 * 64, *sR1 = s.r[rr.stage][1][0] + wg * 64 * 64;  // (64, D)
  Chain<Tl, ForQ> c(s, a, w, wg);
  ptx::mbarrier_wait(&s.r_full[rr.stage], rr.phase);
  ptx::mbarrier_wait(&s.x_full[xr.stage], xr.phase);
  multiply_nt<T, D, 128, 128>(c.score, sR0, s.x[xr.stage][0]);
  multiply_nt<T, D, 128, 128>(c.dp, sR1, s.x[xr.stage][1]);
  c.elementwise(xr, a, r0, w.x_begin);
  // Rotated: nothing is in flight over the back edge, or ptxas serialises every wgmma (C7514).
  for (int x = w.x_begin + 1; x < w.x_end; ++x) {
    const int stage = xr.stage;
    xr.next();
    ptx::mbarrier_wait(&s.x_full[xr.stage], xr.phase);
    if (Tl::Turns) ptx::barrier_sync(id(Bar::Turn, wg), 256);
    c.accumulate(stage);
    multiply_nt<T, D, 128, 128>(c.score, sR0, s.x[xr.stage][0]);
    ptx::wgmma_wait<1>();
    c.accumulated(stage);  // S runs meanwhile
    multiply_nt<T, D, 128, 128>(c.dp, sR1, s.x[xr.stage][1]);
    if (Tl::Turns) ptx::barrier_arrive(id(Bar::Turn, wg ^ 1), 256);
    c.elementwise(xr, a, r0, x);
  }
  c.accumulate(xr.stage);
  ptx::wgmma_wait<0>();
  c.accumulated(xr.stage);
  xr.next();
  if constexpr (Tl::OwnStaging) release(&s.r_empty[rr.stage]);
  store<Tl, ForQ>(s, a, w, c.acc, c.acc_v, rr.stage, wg);
  if constexpr (!Tl::OwnStaging) {
    if (threadIdx.x % 128 == 0) ptx::tma_store_wait_read<0>();  // the store has left the resident pair
    release(&s.r_empty[rr.stage]);
  }
}

template <class Tl>
__device__ __forceinline__ void start(typename Tl::Shared& s) {
  if (threadIdx.x == 0) {
    constexpr int Warps = 4 * Tl::Consumers;
    for (int i = 0; i < Tl::Buffers; ++i) {
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
  const Items<Tl> items(a);
  Ring<Tl::Buffers> rr;
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

}  // namespace attention
