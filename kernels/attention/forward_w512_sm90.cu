// attention forward, bf16/f16, Hopper, one wide head (the VAE's, D = 512).   O = softmax(scale Q K^T) V, LSE saved.
// Q, O: (N, Lq, H, D)  K, V: (N, Lk, H, D), by 4D tensor maps (D, H, L, N): columns past D read zeros up to 512,
// stores are clipped.
// Both consumers have the same 64 queries: each makes the scores of half of a block's keys, (64, 32), they exchange the
// row maxima and P through shared memory, and each makes half of the channels of O, (64, 256).
// Work: 4*N*H*Lq*Lk*512 flop, about half when causal.  Bytes: 2*N*H*D*(2 Lq + 2 Lk) + 4*N*H*Lq.
//   16384 tokens: 550 GFLOP, 67 MB; tensor 0.58 ms. The scores' products of 32 columns are bound by shared memory: 24
//   clocks of 16. Predicted, not measured: 0.75 to 0.9 ms.
// Tile: 64 queries x 64 keys, one buffer of K and of V in halves of 256 channels: K comes during P V, V during Q K^T.
//   1 producer + 2 consumer warpgroups, 24/240 registers, 209 KiB, 1 block/SM, persistent.
// Determinism: bitwise, fixed key order.   Requires: D % 8 == 0, D <= 512, Lk >= 1, Lq >= 1, scale > 0.
#include "attention/forward_sm90.cuh"

namespace attention {

template <class T_>
struct WideTile {
  using T = T_;
  static constexpr bool Causal = true;
  static constexpr int HeadDim = 512, Chunks = HeadDim / 64, Half = Chunks / 2, Consumers = 2;
  static constexpr int BlockM = 64, BlockN = 64, Keys = BlockN / Consumers, PolyEvery = 0;
  static constexpr int ProducerRegs = 24, ConsumerRegs = 240;
  struct alignas(1024) Shared {
    T q[Chunks][BlockM * 64];            // (64, D) as chunks of 64 columns; at the end the staging of O
    T k[Chunks][BlockN * 64];            // (64, D)
    T v[Chunks][BlockN * 64];            // (64, D); each half is read by one consumer
    T p[2][BlockM * 64];                 // (64, BlockN): double buffer
    float top[Consumers][BlockM], sum[Consumers][BlockM];
    uint64_t q_full, q_empty, k_full[2], k_empty[2], v_full[2], v_empty[2];
  };
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, Stages = 1, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(SharedBytes <= 227 * 1024, "shared memory of one block");
};

// Named barriers: of both consumers; Alone + consumer.
constexpr int Together = 1, Alone = 2;

// One half of the channels of 64 rows.
template <class Tl>
__device__ __forceinline__ void load_half(typename Tl::T (*to)[64 * 64], const ptx::TensorMap* map, uint64_t* full,
                                          uint64_t* empty, uint32_t phase, int half, int row, const Work& w) {
  ptx::mbarrier_wait(empty, phase ^ 1);
  ptx::mbarrier_expect_tx(full, Tl::Half * SubtileBytes);
  for (int d = half * Tl::Half; d < (half + 1) * Tl::Half; ++d)
    ptx::tma_load_4d(to[d], map, full, d * 64, w.head, row, w.sample);
}

// The K of a block before the V of the one before it: it has room first.
template <class Tl>
__device__ __forceinline__ void produce_wide(typename Tl::Shared& s, const ForwardMaps& a, int tiles) {
  const int all_blocks = (a.len_k + Tl::BlockN - 1) / Tl::BlockN;
  uint32_t q_phase = 0, k_phase = 0, v_phase = 0;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1) {
    const Work w = work<Tl>(tile, a);
    const int n_blocks = blocks_of<Tl>(w, a, all_blocks);
    ptx::mbarrier_wait(&s.q_empty, q_phase ^ 1);
    ptx::mbarrier_expect_tx(&s.q_full, Tl::Chunks * SubtileBytes);
    for (int d = 0; d < Tl::Chunks; ++d)
      ptx::tma_load_4d(s.q[d], &a.q, &s.q_full, d * 64, w.head, w.m0, w.sample);
    for (int n = n_blocks - 1; n >= -1; --n) {
      if (n >= 0) {
        for (int h = 0; h < 2; ++h)
          load_half<Tl>(s.k, &a.k, &s.k_full[h], &s.k_empty[h], k_phase, h, n * Tl::BlockN, w);
        k_phase ^= 1;
      }
      if (n + 1 < n_blocks) {
        for (int h = 0; h < 2; ++h)
          load_half<Tl>(s.v, &a.v, &s.v_full[h], &s.v_empty[h], v_phase, h, (n + 1) * Tl::BlockN, w);
        v_phase ^= 1;
      }
    }
  }
}

// S (64, Keys) of this consumer: two groups of products, a half of the channels each.
template <class Tl>
__device__ __forceinline__ void scores(typename Tl::Shared& s, float (&score)[Tl::Keys / 2], uint32_t phase, int wg) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    // made anew: one buffer is at the same place for every block, and ptxas would keep all 64 descriptors in registers
    uint32_t at[2] = {ptx::smem_address(s.q[h * Tl::Half]),
                      ptx::smem_address(s.k[h * Tl::Half] + wg * Tl::Keys * 64)};
    ptx::mbarrier_wait(&s.k_full[h], phase);
    ptx::reg_fence(at);
    const uint64_t da = ptx::wgmma_descriptor_k(ptx::Smem(at[0])), db = ptx::wgmma_descriptor_k(ptx::Smem(at[1]));
    ptx::reg_fence(score);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4 * Tl::Half; ++k) {
      const int step = (k / 4 * SubtileBytes + k % 4 * 32) / 16;
      ptx::wgmma_ss<typename Tl::T, Tl::Keys>(score, da + step, db + step, h + k > 0);
    }
    ptx::wgmma_commit();
  }
}

// O (64, 256) += P (64, BlockN) V (BlockN, 256).
template <class Tl>
__device__ __forceinline__ void add_values(typename Tl::Shared& s, float (&o)[Tl::HeadDim / 4], int buffer, int wg) {
  using T = typename Tl::T;
  uint32_t at[2] = {ptx::smem_address(s.p[buffer]), ptx::smem_address(s.v[wg * Tl::Half])};
  ptx::reg_fence(at);
  const uint64_t da = ptx::wgmma_descriptor_k(ptx::Smem(at[0]));
  const uint64_t db = ptx::wgmma_descriptor_mn(ptx::Smem(at[1]), SubtileBytes);
  ptx::reg_fence(o);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < Tl::BlockN / 16; ++k)
    ptx::wgmma_ss<T, Tl::HeadDim / 2, 0, 1>(o, da + k * 32 / 16, db + k * 16 * RowBytes / 16, true);
  ptx::wgmma_commit();
}

// The row maxima of both consumers' scores.
template <class Tl>
__device__ __forceinline__ void join_tops(typename Tl::Shared& s, float (&top)[2], int wg) {
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (group_column() == 0) s.top[wg][group_row() + 8 * h] = top[h];
  ptx::barrier_sync(Together, 256);
#pragma unroll
  for (int h = 0; h < 2; ++h) top[h] = fmaxf(top[h], s.top[wg ^ 1][group_row() + 8 * h]);
}

// This consumer's columns of P; when it returns, the other's are there too and nobody reads the other buffer.
template <class Tl>
__device__ __forceinline__ void share_p(typename Tl::Shared& s, const float (&p)[Tl::Keys / 2], int buffer, int wg) {
  const float one[2] = {1.0f, 1.0f};
  stage_tile(s.p[buffer], p, one, wg * Tl::Keys / 8);
  ptx::fence_proxy_async();
  ptx::barrier_sync(Together, 256);
}

// O / sum -> over Q -> TMA store; LSE.
template <class Tl>
__device__ __forceinline__ void finish_wide(typename Tl::Shared& s, float (&o)[Tl::HeadDim / 4], Softmax& st,
                                            const ForwardMaps& a, const Work& w, int wg) {
  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    st.sum[h] += ptx::shfl_xor(st.sum[h], 1);
    st.sum[h] += ptx::shfl_xor(st.sum[h], 2);
    if (group_column() == 0) s.sum[wg][group_row() + 8 * h] = st.sum[h];
  }
  ptx::barrier_sync(Together, 256);  // also: both are done with Q
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = group_row() + 8 * h;
    const float sum = s.sum[0][row] + s.sum[1][row];
    inverse[h] = ptx::rcp_approx(sum);
    if (wg == 0 && group_column() == 0 && w.m0 + row < a.len_q)
      a.lse[((long long)w.sample * a.len_q + w.m0 + row) * a.heads + w.head] =
          st.max[h] * a.scale + ptx::log2_approx(sum) * kLn2;
  }
#pragma unroll
  for (int d = 0; d < Tl::Half; ++d)
    stage_tile(s.q[wg * Tl::Half + d], *reinterpret_cast<float(*)[32]>(&o[32 * d]), inverse);
  ptx::fence_proxy_async();
  ptx::barrier_sync(Alone + wg, 128);
  if (threadIdx.x % 128 == 0) {
    for (int d = wg * Tl::Half; d < (wg + 1) * Tl::Half; ++d)
      ptx::tma_store_4d(&a.o, s.q[d], d * 64, w.head, w.m0, w.sample);
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
  }
  release(&s.q_empty);
}

// One query block: all key blocks, the last first. phase: of K and V, which change with every block.
template <class Tl>
__device__ __forceinline__ void consume_wide(typename Tl::Shared& s, const ForwardMaps& a, const Work& w,
                                             uint32_t& phase, uint32_t q_phase, int wg) {
  const int n_blocks = blocks_of<Tl>(w, a, (a.len_k + Tl::BlockN - 1) / Tl::BlockN);
  const float scale_log2 = a.scale * kLog2e;
  float o[Tl::HeadDim / 4], score[Tl::Keys / 2], top[2];  // (64, 256), (64, 32)
  Softmax st;
#pragma unroll
  for (int i = 0; i < Tl::HeadDim / 4; ++i) o[i] = 0.0f;
  ptx::mbarrier_wait(&s.q_full, q_phase);
  scores<Tl>(s, score, phase, wg);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(score);
  release(&s.k_empty[0]);
  release(&s.k_empty[1]);
  mask_later<Tl::Keys>(score, a, (n_blocks - 1) * Tl::BlockN + wg * Tl::Keys, w.m0);
  row_tops(score, top);
  join_tops<Tl>(s, top, wg);
  soften<Tl, true>(score, top, st, scale_log2);
  int buffer = 0;
  share_p<Tl>(s, score, buffer, wg);
  for (int n = n_blocks - 2; n >= 0; --n, phase ^= 1) {
    scores<Tl>(s, score, phase ^ 1, wg);
    ptx::mbarrier_wait(&s.v_full[wg], phase);
    add_values<Tl>(s, o, buffer, wg);  // behind S in the tensor queue
    ptx::wgmma_wait<2>();
    ptx::reg_fence(score);
    release(&s.k_empty[0]);
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    release(&s.k_empty[1]);
    mask_later<Tl::Keys>(score, a, n * Tl::BlockN + wg * Tl::Keys, w.m0);
    row_tops(score, top);
    join_tops<Tl>(s, top, wg);
    const bool moved = soften<Tl, false>(score, top, st, scale_log2);  // under P V
    // Returns at once; it keeps the wait for the product behind the exponentials, as in forward_sm90.cuh.
    ptx::reg_fence(score);
    ptx::mbarrier_wait(&s.q_full, q_phase ^ zero_after(st.sum[0] + st.sum[1]));
    ptx::wgmma_wait<0>();
    ptx::reg_fence(o);
    release(&s.v_empty[wg]);
    if (moved)
#pragma unroll
      for (int i = 0; i < Tl::HeadDim / 4; ++i) o[i] *= st.alpha[(i >> 1) & 1];
    buffer ^= 1;
    share_p<Tl>(s, score, buffer, wg);
  }
  ptx::mbarrier_wait(&s.v_full[wg], phase);
  add_values<Tl>(s, o, buffer, wg);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(o);
  release(&s.v_empty[wg]);
  phase ^= 1;
  finish_wide<Tl>(s, o, st, a, w, wg);
}

template <class Tl>
__device__ __forceinline__ void start_wide(typename Tl::Shared& s, const ForwardMaps& a) {
  if (threadIdx.x == 0) {
    constexpr int Warps = 4 * Tl::Consumers;
    ptx::mbarrier_init(&s.q_full, 1);
    ptx::mbarrier_init(&s.q_empty, Warps);
    for (int i = 0; i < 2; ++i) {
      ptx::mbarrier_init(&s.k_full[i], 1);
      ptx::mbarrier_init(&s.k_empty[i], Warps);
      ptx::mbarrier_init(&s.v_full[i], 1);
      ptx::mbarrier_init(&s.v_empty[i], 4);
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
__device__ __forceinline__ void forward_wide(const ForwardMaps& a) {
  auto& s = shared_memory<typename Tl::Shared>();
  const int wg = int(threadIdx.x) / 128 - 1;
  const int tiles = (a.len_q + Tl::BlockM - 1) / Tl::BlockM * a.heads * a.samples;
  start_wide<Tl>(s, a);
  if (wg < 0) {
    ptx::setmaxnreg_dec<Tl::ProducerRegs>();
    if (ptx::elect_of_warp(0)) produce_wide<Tl>(s, a, tiles);
    return;
  }
  ptx::setmaxnreg_inc<Tl::ConsumerRegs>();
  uint32_t phase = 0, q_phase = 0;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1)
    consume_wide<Tl>(s, a, work<Tl>(tile, a), phase, q_phase, wg);
}

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_sm90_w512_bf16, WideTile<bf16>, ForwardMaps, forward_wide<WideTile<bf16>>)
EXPORT(attention_forward_sm90_w512_f16, WideTile<f16>, ForwardMaps, forward_wide<WideTile<f16>>)
