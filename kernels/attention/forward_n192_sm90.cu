// attention forward, bf16/f16, Hopper, D = 64, blocks of 192 keys.   O = softmax(scale Q K^T) V, LSE saved.
// Q, O: (N, Lq, H, 64)  K, V: (N, Lk, H, 64), by 4D tensor maps (D, H, L, N): tails read zeros, stores are clipped.
// The scores of 192 keys and O are 128 of a thread's 160 registers, so P cannot wait in registers for its product
// while the next scores are made: each warpgroup has a panel for it in shared memory.
// Work: 4*N*H*Lq*Lk*64 flop, N*H*Lq*Lk exp.  Bytes: 2*N*H*64*(2 Lq + 2 Lk) + 4*N*H*Lq.
//   SDXL N=1 H=10 L=4096: 42.9 GFLOP, 0.168 G exp, 21 MB. Per block of 192 x 192: tensor 2304 clk, MUFU 2352, shared
//   memory 2880 (operands of S 768, P and V 1152, P written 576, K and V in 384): bound by shared memory.
// Tile: 192 queries x 192 keys, 1 producer + 3 consumer warpgroups, 32/160 registers; 2 stages of K, 3 of V, which is
//   read a block longer; 217 KiB, 1 block/SM, persistent.
// Predicted, not measured: 4096x4096x10 N=1 115-140 us, N=4 415-490 us (sm90_m192 93-112, 330-395);
//   1024x1024x20 N=1 19-23 us (14-17).
// Determinism: bitwise, a row is made by one warpgroup in one key order.
// Requires: D = 64, Lk >= 1, Lq >= 1, scale > 0, not causal.
#include "attention/forward_sm90.cuh"

namespace attention {

template <class T_>
struct PanelTile {
  using T = T_;
  static constexpr bool Causal = false;
  static constexpr int HeadDim = 64, Chunks = 1, Consumers = 3, BlockM = 64 * Consumers, BlockN = 192;
  static constexpr int Stages = 2, ValueStages = 3, PolyEvery = 0;
  static constexpr int ProducerRegs = 32, ConsumerRegs = 160;
  struct alignas(1024) Shared {
    T q[Consumers][64 * 64];
    T o[Consumers][BlockN / 64][64 * 64];  // P (64, BlockN) as chunks of 64 columns; at the end the staging of O
    T k[Stages][BlockN * 64];
    T v[ValueStages][BlockN * 64];
    uint64_t q_full, q_empty, k_full[Stages], k_empty[Stages], v_full[ValueStages], v_empty[ValueStages];
  };
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, Threads = 128 * (Consumers + 1);
  static constexpr int SharedBytes = sizeof(Shared), BlocksPerSm = 1;
  static_assert(128 * (ProducerRegs + Consumers * ConsumerRegs) <= 65536, "register file");
  static_assert(SharedBytes <= 227 * 1024, "shared memory of one block");
};

template <class Tl>
__device__ __forceinline__ void produce_panel(typename Tl::Shared& s, const ForwardMaps& a, int tiles) {
  constexpr int KvBytes = Tl::BlockN * RowBytes;
  const int n_blocks = (a.len_k + Tl::BlockN - 1) / Tl::BlockN;
  Ring<Tl::Stages> kr;
  Ring<Tl::ValueStages> vr;
  uint32_t q_phase = 0;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1) {
    const Work w = work<Tl>(tile, a);
    ptx::mbarrier_wait(&s.q_empty, q_phase ^ 1);
    ptx::mbarrier_expect_tx(&s.q_full, Tl::Consumers * SubtileBytes);
    for (int c = 0; c < Tl::Consumers; ++c)
      ptx::tma_load_4d(s.q[c], &a.q, &s.q_full, 0, w.head, w.m0 + c * 64, w.sample);
    for (int n = n_blocks - 1; n >= 0; --n, kr.next(), vr.next()) {
      ptx::mbarrier_wait(&s.k_empty[kr.stage], kr.phase ^ 1);
      ptx::mbarrier_expect_tx(&s.k_full[kr.stage], KvBytes);
      ptx::tma_load_4d(s.k[kr.stage], &a.k, &s.k_full[kr.stage], 0, w.head, n * Tl::BlockN, w.sample);
      ptx::mbarrier_wait(&s.v_empty[vr.stage], vr.phase ^ 1);
      ptx::mbarrier_expect_tx(&s.v_full[vr.stage], KvBytes);
      ptx::tma_load_4d(s.v[vr.stage], &a.v, &s.v_full[vr.stage], 0, w.head, n * Tl::BlockN, w.sample);
    }
  }
}

// P of this warp's rows into the panel, for wgmma. The product with the P before is done; the next begins behind a
// barrier of the warpgroup.
template <class Tl>
__device__ __forceinline__ void put_p(typename Tl::Shared& s, const float (&p)[Tl::BlockN / 2], int wg) {
  const float one[2] = {1.0f, 1.0f};
#pragma unroll
  for (int c = 0; c < Tl::BlockN / 64; ++c)
    stage_tile(s.o[wg][c], *reinterpret_cast<const float(*)[32]>(&p[32 * c]), one);
  ptx::fence_proxy_async();
}

// One query block of one consumer: all key blocks, the last first. kr, vr: the block whose S, whose P V is next.
template <class Tl>
__device__ __forceinline__ void consume_panel(typename Tl::Shared& s, const ForwardMaps& a, const Work& w,
                                              Ring<Tl::Stages>& kr, Ring<Tl::ValueStages>& vr, uint32_t q_phase,
                                              int wg) {
  using T = typename Tl::T;
  constexpr int BlockN = Tl::BlockN, D = Tl::HeadDim;
  const int n_blocks = (a.len_k + BlockN - 1) / BlockN, keys_left = a.len_k - (n_blocks - 1) * BlockN;
  const float scale_log2 = a.scale * kLog2e;
  float o[D / 2], score[BlockN / 2], top[2];  // (64, D), (64, BlockN)
  Softmax st;
#pragma unroll
  for (int i = 0; i < D / 2; ++i) o[i] = 0.0f;
  ptx::mbarrier_wait(&s.q_full, q_phase);
  ptx::mbarrier_wait(&s.k_full[kr.stage], kr.phase);
  multiply_nt<T, D, BlockN>(score, s.q[wg], s.k[kr.stage]);
  ptx::wgmma_wait<0>();
  ptx::reg_fence(score);
  release(&s.k_empty[kr.stage]);
  kr.next();
  if (keys_left < BlockN) mask_keys<BlockN>(score, keys_left);
  row_tops(score, top);
  soften<Tl, true>(score, top, st, scale_log2);
  if (threadIdx.x % 128 == 0) ptx::tma_store_wait_read<0>();  // the previous tile's O has left the panel
  ptx::barrier_sync(id(Bar::Store, wg), 128);
  put_p<Tl>(s, score, wg);
  ptx::mbarrier_wait(&s.v_full[vr.stage], vr.phase);
  for (int n = n_blocks - 2; n >= 0; --n) {
    const Ring<Tl::ValueStages> v = vr;
    vr.next();
    ptx::mbarrier_wait(&s.k_full[kr.stage], kr.phase);
    take_turn<Tl>(wg);  // and P of all four warps is there
    multiply_nt<T, D, BlockN>(score, s.q[wg], s.k[kr.stage]);
    multiply_add<T, BlockN, D>(o, s.o[wg], s.v[v.stage]);  // behind S in the tensor queue
    ptx::wgmma_commit();
    pass_turn<Tl>(wg);
    ptx::wgmma_wait<1>();
    ptx::reg_fence(score);
    release(&s.k_empty[kr.stage]);
    kr.next();
    row_tops(score, top);
    const bool moved = soften<Tl, false>(score, top, st, scale_log2);  // under P V and the others' products
    // A wait that follows the exponentials and ends their block, or ptxas hoists the wgmma wait over them.
    ptx::reg_fence(score);
    ptx::mbarrier_wait(&s.v_full[vr.stage], vr.phase ^ zero_after(st.sum[0] + st.sum[1]));
    ptx::wgmma_wait<0>();
    ptx::reg_fence(o);
    release(&s.v_empty[v.stage]);
    if (moved)
#pragma unroll
      for (int i = 0; i < D / 2; ++i) o[i] *= st.alpha[(i >> 1) & 1];
    put_p<Tl>(s, score, wg);
  }
  release(&s.q_empty);                         // every S of this tile is done
  ptx::barrier_sync(id(Bar::Store, wg), 128);  // P of all four warps is there
  multiply_add<T, BlockN, D>(o, s.o[wg], s.v[vr.stage]);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::reg_fence(o);
  release(&s.v_empty[vr.stage]);
  vr.next();
  finish<Tl>(s, o, st, a, w, wg);
}

template <class Tl>
__device__ __forceinline__ void forward_panel(const ForwardMaps& a) {
  auto& s = shared_memory<typename Tl::Shared>();
  const int wg = ptx::warp_uniform(int(threadIdx.x) / 128 - 1);  // keeps the descriptors in uniform registers
  const int tiles = (a.len_q + Tl::BlockM - 1) / Tl::BlockM * a.heads * a.samples;
  start<Tl>(s, a);
  if (wg < 0) {
    ptx::setmaxnreg_dec<Tl::ProducerRegs>();
    if (ptx::elect_of_warp(0)) produce_panel<Tl>(s, a, tiles);
    return;
  }
  ptx::setmaxnreg_inc<Tl::ConsumerRegs>();
  Ring<Tl::Stages> kr;
  Ring<Tl::ValueStages> vr;
  uint32_t q_phase = 0;
  if (wg == Tl::Consumers - 1) pass_turn<Tl>(wg);  // consumer 0 begins
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x), q_phase ^= 1)
    consume_panel<Tl>(s, a, work<Tl>(tile, a), kr, vr, q_phase, wg);
  if (threadIdx.x % 128 == 0) ptx::tma_store_wait_read<0>();  // shared memory must outlive the last store
  if (wg == 0) take_turn<Tl>(wg);                             // leave no arrival pending
}

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_sm90_m192_n192_bf16, PanelTile<bf16>, ForwardMaps, forward_panel<PanelTile<bf16>>)
EXPORT(attention_forward_sm90_m192_n192_f16, PanelTile<f16>, ForwardMaps, forward_panel<PanelTile<f16>>)
