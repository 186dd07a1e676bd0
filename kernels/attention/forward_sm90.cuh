// The forward kernel on Hopper: a producer that loads, consumers that take turns on the tensor cores.
#pragma once
#include "attention/wgmma_tile.cuh"
#include "common/shared.cuh"

namespace attention {

// HeadDim: D, padded with zeros by the tensor maps. PolyEvery: every PolyEvery-th exp2 is a polynomial on the FMA
// pipe; 0: none.
template <class T_, int HeadDim_, int Consumers_, int BlockN_, int Stages_, int PolyEvery_>
struct ForwardTile {
  using T = T_;
  static constexpr int HeadDim = HeadDim_, Consumers = Consumers_, BlockN = BlockN_;
  static constexpr int Stages = Stages_, ValueStages = Stages;
  static constexpr int PolyEvery = PolyEvery_, BlockM = 64 * Consumers, Chunks = (HeadDim + 63) / 64;
  static constexpr bool Causal = false;
  static constexpr int ProducerRegs = Consumers == 3 ? 32 : 24, ConsumerRegs = Consumers == 3 ? 160 : 240;
  struct alignas(1024) Shared {
    T q[Consumers][Chunks][64 * 64];    // (64, D) a consumer, as chunks of 64 columns
    T o[Consumers][Chunks][64 * 64];    // staging of O, (64, D) a consumer
    T k[Stages][Chunks][BlockN * 64];   // (BlockN, D) a stage
    T v[Stages][Chunks][BlockN * 64];
    uint64_t q_full, q_empty, k_full[Stages], k_empty[Stages], v_full[Stages], v_empty[Stages];
  };
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(HeadDim % 16 == 0 && HeadDim <= 256, "k-steps of Q K^T; columns of a product");
  static_assert(Stages >= 2, "the V of the next block is awaited while this one is in use");
  static_assert(BlockN % 16 == 0 && BlockN <= 256, "k-steps of P V; TMA box");
  static_assert(Consumers == 2 || Consumers == 3, "the register split is worked out for 2 and 3 consumers");
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(SharedBytes <= 227 * 1024, "shared memory of one block");
};

// The same, where the arguments may hide the keys behind a query.
template <class Tl>
struct MaybeCausal : Tl { static constexpr bool Causal = true; };

struct ForwardMaps {
  ptx::TensorMap q, k, v, o;  // boxes of 64 columns, 1 head; rows: q, o 64; k, v BlockN
  float* lse;                 // (N, Lq, H), natural logarithm
  int len_q, len_k, heads, samples;
  float scale;
  int causal;  // read by MaybeCausal tiles
  int unused[8];
};

// Named barriers: Turn + consumer, Store + consumer.
enum class Bar : int { Turn = 1, Store = 4 };
__device__ __forceinline__ int id(Bar bar, int consumer) { return int(bar) + consumer; }

// Query blocks fastest: concurrent blocks share K, V of a head in L2.
struct Work { int m0, head, sample; };
template <class Tl>
__device__ __forceinline__ Work work(int tile, const ForwardMaps& a) {
  const int blocks = (a.len_q + Tl::BlockM - 1) / Tl::BlockM, head = tile / blocks;
  return {(tile % blocks) * Tl::BlockM, head % a.heads, head / a.heads};
}

// Key blocks that some query of the tile sees; `all` of them without a mask.
template <class Tl>
__device__ __forceinline__ int blocks_of(const Work& w, const ForwardMaps& a, int all) {
  if constexpr (Tl::Causal)
    if (a.causal) return (min(a.len_k, w.m0 + Tl::BlockM) + Tl::BlockN - 1) / Tl::BlockN;
  return all;
}

// 2^x for x <= 8 on FMA and ALU pipes: integer part to the exponent, degree-3 minimax on [-1/2, 1/2],
// relative error 7.5e-5, far below bf16's and f16's rounding of P.
__device__ __forceinline__ float exp2_poly(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low mantissa bits
  x = fmaxf(x, -126.0f);
  const float big = x + kRound, f = x - (big - kRound);
  const float p = ((0.05517167f * f + 0.24261111f) * f + 0.69326099f) * f + 0.99992807f;
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(big) << 23));
}
template <int PolyEvery>
__device__ __forceinline__ float exp2_split(float x, int i) {
  if constexpr (PolyEvery > 0) return i % PolyEvery == 0 ? exp2_poly(x) : ptx::exp2_approx(x);
  else return ptx::exp2_approx(x);
}

// Of the thread's two rows; `sum` over its own columns.
struct Softmax { float max[2], sum[2], alpha[2]; };

// The largest of the thread's two rows of S (64, 2R).
template <int R>
__device__ __forceinline__ void row_tops(const float (&s)[R], float (&top)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float m = fmaxf(s[2 * h], s[2 * h + 1]);
#pragma unroll
    for (int n = 1; n < R / 4; ++n) m = fmaxf(m, fmaxf(s[4 * n + 2 * h], s[4 * n + 2 * h + 1]));
    m = fmaxf(m, ptx::shfl_xor(m, 1));
    top[h] = fmaxf(m, ptx::shfl_xor(m, 2));
  }
}

// S (64, 2R) -> P = exp2((S - max) * scale) in place, top: its largest; whether O must be multiplied by alpha (uniform over
// the warp). The reference maximum moves only when it would grow by more than kSlack powers of two: exact, as
// the final division cancels it, and P <= 2^8 fits both types.
template <class Tl, bool First, int R>
__device__ __forceinline__ bool soften(float (&s)[R], float (&top)[2], Softmax& st, float scale_log2) {
  constexpr float kSlack = 8.0f, kLeast = -1e30f;
  bool moved = false;
  if constexpr (First) {
    // A row may see no key of the first block: its maximum must be a number.
    if constexpr (Tl::Causal) top[0] = fmaxf(top[0], kLeast), top[1] = fmaxf(top[1], kLeast);
    st.max[0] = top[0], st.max[1] = top[1], st.sum[0] = st.sum[1] = 0.0f;
  } else {
    moved = ptx::vote_any((top[0] - st.max[0]) * scale_log2 > kSlack ||
                          (top[1] - st.max[1]) * scale_log2 > kSlack);
    if (moved)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float m = fmaxf(st.max[h], top[h]);
        st.alpha[h] = ptx::exp2_approx((st.max[h] - m) * scale_log2);
        st.max[h] = m;
        st.sum[h] *= st.alpha[h];
      }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float shift = -st.max[h] * scale_log2;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < R / 4; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = s[4 * n + 2 * h + c];
        x = exp2_split<Tl::PolyEvery>(__fmaf_rn(x, scale_log2, shift), 2 * n + c);
        sum += x;
      }
    st.sum[h] += sum;
  }
  return moved;
}

// Keys that do not exist get -inf. Only the last key block is ragged, and it is taken first.
template <int BlockN>
__device__ __forceinline__ void mask_keys(float (&s)[BlockN / 2], int keys_left) {
#pragma unroll
  for (int i = 0; i < BlockN / 2; ++i)
    if ((i >> 2) * 8 + group_column() + (i & 1) >= keys_left) s[i] = -INFINITY;
}

// Keys of a block from key0 that do not exist or lie behind the query get -inf. `row`: the warpgroup's first.
template <int BlockN>
__device__ __forceinline__ void mask_later(float (&s)[BlockN / 2], const ForwardMaps& a, int key0, int row) {
  const int rows = a.causal ? row + 1 : a.len_k, first = min(rows, a.len_k) - key0;
  if (first >= BlockN) return;
  int left[2];
#pragma unroll
  for (int h = 0; h < 2; ++h)
    left[h] = (a.causal ? min(rows + group_row() + 8 * h, a.len_k) : a.len_k) - key0 - group_column();
#pragma unroll
  for (int i = 0; i < BlockN / 2; ++i)
    if ((i >> 2) * 8 + (i & 1) >= left[i >> 1 & 1]) s[i] = -INFINITY;
}

template <class Tl>
__device__ __forceinline__ void produce(typename Tl::Shared& s, const ForwardMaps& a, int tiles) {
  constexpr int KvBytes = Tl::Chunks * Tl::BlockN * RowBytes;
  const int all_blocks = (a.len_k + Tl::BlockN - 1) / Tl::BlockN;
  Ring<Tl::Stages> r;
  uint32_t q_phase = 0;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1) {
    const Work w = work<Tl>(tile, a);
    const int n_blocks = blocks_of<Tl>(w, a, all_blocks);
    ptx::mbarrier_wait(&s.q_empty, q_phase ^ 1);
    ptx::mbarrier_expect_tx(&s.q_full, Tl::Consumers * Tl::Chunks * SubtileBytes);
    for (int c = 0; c < Tl::Consumers; ++c)
      for (int d = 0; d < Tl::Chunks; ++d)
        ptx::tma_load_4d(s.q[c][d], &a.q, &s.q_full, d * 64, w.head, w.m0 + c * 64, w.sample);
    for (int n = n_blocks - 1; n >= 0; --n, r.next()) {
      ptx::mbarrier_wait(&s.k_empty[r.stage], r.phase ^ 1);
      ptx::mbarrier_expect_tx(&s.k_full[r.stage], KvBytes);
      for (int d = 0; d < Tl::Chunks; ++d)
        ptx::tma_load_4d(s.k[r.stage][d], &a.k, &s.k_full[r.stage], d * 64, w.head, n * Tl::BlockN, w.sample);
      ptx::mbarrier_wait(&s.v_empty[r.stage], r.phase ^ 1);
      ptx::mbarrier_expect_tx(&s.v_full[r.stage], KvBytes);
      for (int d = 0; d < Tl::Chunks; ++d)
        ptx::tma_load_4d(s.v[r.stage][d], &a.v, &s.v_full[r.stage], d * 64, w.head, n * Tl::BlockN, w.sample);
    }
  }
}

// O (64, D) / sum -> staging -> TMA store (rows past Lq are clipped by the map); LSE.
template <class Tl>
__device__ __forceinline__ void finish(typename Tl::Shared& s, float (&o)[Tl::HeadDim / 2], Softmax& st,
                                       const ForwardMaps& a, const Work& w, int wg) {
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = st.sum[h];
    sum += ptx::shfl_xor(sum, 1);
    sum += ptx::shfl_xor(sum, 2);
    inverse[h] = ptx::rcp_approx(sum);
    const int row = w.m0 + wg * 64 + group_row() + 8 * h;
    if (group_column() == 0 && row < a.len_q)
      a.lse[((long long)w.sample * a.len_q + row) * a.heads + w.head] =
          st.max[h] * a.scale + ptx::log2_approx(sum) * kLn2;
  }
  const bool first = threadIdx.x % 128 == 0;
  if (first) ptx::tma_store_wait_read<0>();  // the previous tile's store has left the staging buffer
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  constexpr int Whole = Tl::HeadDim / 64, Rest = Tl::HeadDim % 64;
#pragma unroll
  for (int d = 0; d < Whole; ++d)
    stage_tile(s.o[wg][d], *reinterpret_cast<float(*)[32]>(&o[32 * d]), inverse);
  if constexpr (Rest > 0)
    stage_tile(s.o[wg][Whole], *reinterpret_cast<float(*)[Rest / 2]>(&o[32 * Whole]), inverse);
  ptx::fence_proxy_async();
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  if (!first) return;
  for (int d = 0; d < Tl::Chunks; ++d)
    ptx::tma_store_4d(&a.o, s.o[wg][d], d * 64, w.head, w.m0 + wg * 64, w.sample);
  ptx::tma_store_commit();
}

// Ping-pong: a warpgroup issues its two products only in its turn, so that while one is in softmax the tensor
// cores belong to the others.
template <class Tl>
__device__ __forceinline__ void take_turn(int wg) { ptx::barrier_sync(id(Bar::Turn, wg), 256); }
template <class Tl>
__device__ __forceinline__ void pass_turn(int wg) {
  ptx::barrier_arrive(id(Bar::Turn, wg + 1 < Tl::Consumers ? wg + 1 : 0), 256);
}

// One query block of one consumer: all key blocks, the last first.
template <class Tl>
__device__ __forceinline__ void consume(typename Tl::Shared& s, const ForwardMaps& a, const Work& w,
                                        Ring<Tl::Stages>& r, uint32_t q_phase, int wg) {
  using T = typename Tl::T;
  constexpr int BlockN = Tl::BlockN, D = Tl::HeadDim;
  const int n_blocks = blocks_of<Tl>(w, a, (a.len_k + BlockN - 1) / BlockN);
  const int keys_left = a.len_k - (n_blocks - 1) * BlockN;
  const float scale_log2 = a.scale * kLog2e;
  const T* sQ = s.q[wg][0];          // (64, D)
  float o[D / 2], score[BlockN / 2]; // (64, D), (64, BlockN)
  uint32_t p[BlockN / 16][4];        // (64, BlockN) packed
  float top[2];
  Softmax st;
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0.0f;
  ptx::mbarrier_wait(&s.q_full, q_phase);
  ptx::mbarrier_wait(&s.k_full[r.stage], r.phase);
  multiply_nt<T, D, BlockN>(score, sQ, s.k[r.stage]);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(score);
  release(&s.k_empty[r.stage]);
  if constexpr (Tl::Causal) mask_later<BlockN>(score, a, (n_blocks - 1) * BlockN, w.m0 + wg * 64);
  else if (keys_left < BlockN) mask_keys<BlockN>(score, keys_left);
  row_tops(score, top);
  soften<Tl, true>(score, top, st, scale_log2);
  pack_tile<T>(p, score);
  ptx::mbarrier_wait(&s.v_full[r.stage], r.phase);
  for (int n = n_blocks - 2; n >= 0; --n) {
    const Ring<Tl::Stages> v = r;  // the block whose P is ready; r: the block whose S is next
    r.next();
    ptx::mbarrier_wait(&s.k_full[r.stage], r.phase);
    take_turn<Tl>(wg);
    multiply_nt<T, D, BlockN>(score, sQ, s.k[r.stage]);
    multiply_add<T, BlockN, D>(o, p, s.v[v.stage]);  // behind S in the tensor queue
    ptx::wgmma_commit();
    pass_turn<Tl>(wg);
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    release(&s.k_empty[r.stage]);
    if constexpr (Tl::Causal) mask_later<BlockN>(score, a, n * BlockN, w.m0 + wg * 64);
    row_tops(score, top);
    const bool moved = soften<Tl, false>(score, top, st, scale_log2);  // under P V and the others' products
    // A wait that follows the exponentials and ends their block, or ptxas hoists the wgmma wait over them.
    ptx::reg_fence(score);
    ptx::mbarrier_wait(&s.v_full[r.stage], r.phase ^ zero_after(st.sum[0] + st.sum[1]));
    ptx::wgmma_wait<0>();
    ptx::reg_fence(o);
    ptx::reg_fence(p);
    release(&s.v_empty[v.stage]);
    if (moved)
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] *= st.alpha[(i >> 1) & 1];
    pack_tile<T>(p, score);
  }
  release(&s.q_empty);  // every S of this tile is done
  multiply_add<T, BlockN, D>(o, p, s.v[r.stage]);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::reg_fence(o);
  release(&s.v_empty[r.stage]);
  r.next();
  finish<Tl>(s, o, st, a, w, wg);
}

template <class Tl>
__device__ __forceinline__ void start(typename Tl::Shared& s, const ForwardMaps& a) {
  if (threadIdx.x == 0) {
    constexpr int Warps = 4 * Tl::Consumers;
    ptx::mbarrier_init(&s.q_full, 1);
    ptx::mbarrier_init(&s.q_empty, Warps);
    static_assert(Tl::Stages <= Tl::ValueStages, "the loop");
    for (int i = 0; i < Tl::ValueStages; ++i) {
      if (i < Tl::Stages) {
        ptx::mbarrier_init(&s.k_full[i], 1);
        ptx::mbarrier_init(&s.k_empty[i], Warps);
      }
      ptx::mbarrier_init(&s.v_full[i], 1);
      ptx::mbarrier_init(&s.v_empty[i], Warps);
    }
    ptx::mbarrier_fence_init();
    ptx::tma_prefetch(&a.q);
    ptx::tma_prefetch(&a.k);
    ptx::tma_prefetch(&a.v);
    ptx::tma_prefetch(&a.o);
  }
  __syncthreads();
}

template <class Tl>
__device__ __forceinline__ void forward(const ForwardMaps& a) {
  auto& s = shared_memory<typename Tl::Shared>();
  const int wg = int(threadIdx.x) / 128 - 1;
  const int tiles = (a.len_q + Tl::BlockM - 1) / Tl::BlockM * a.heads * a.samples;
  start<Tl>(s, a);
  if (wg < 0) {
    ptx::setmaxnreg_dec<Tl::ProducerRegs>();
    if (ptx::elect_of_warp(0)) produce<Tl>(s, a, tiles);
    return;
  }
  ptx::setmaxnreg_inc<Tl::ConsumerRegs>();
  Ring<Tl::Stages> r;
  uint32_t q_phase = 0;
  if (wg == Tl::Consumers - 1) pass_turn<Tl>(wg);  // consumer 0 begins
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1)
    consume<Tl>(s, a, work<Tl>(tile, a), r, q_phase, wg);
  if (threadIdx.x % 128 == 0) ptx::tma_store_wait_read<0>();  // shared memory must outlive the last store
  if (wg == 0) take_turn<Tl>(wg);                        // leave no arrival pending
}

}  // namespace attention
