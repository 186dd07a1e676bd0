// attention backward, bf16/f16, mma.sync.   Q, dQ: (N, Lq, H, D)  K, V, dK, dV: (N, Lk, H, D).
// dV = P^T dO,  dS = P o (dO V^T - delta),  dK = scale dS^T Q,  dQ = scale dS K;  P is recomputed from LSE.
// Two kernels, each a chain of register operands: the accumulators S and dP become P and dS, the A operands
// of the next product, with no trip through shared memory and no sum over blocks.
//                resident (R0, R1)   streamed (X0, X1)   products of a block
//   backward_kv: K, V                Q, dO               S^T, dP^T, dV += P^T dO, dK += dS^T Q
//   backward_q:  Q, dO               K, V                S, dP, dQ += dS K
// Work: 14*N*H*Lq*Lk*D flop (7 products, 5 are the minimum), half when causal; S and dP again for every slice
//   of D = 512 after the first.  Bytes: 2*N*H*D*(4 Lq + 4 Lk) + 8*N*H*Lq.
//   SD 1.5, 4096 tokens, H=8, D=40 (padded to 48): 90 GFLOP; at 60 % of 989 TFLOP/s 152 us: compute-bound.
// Tile: 64 resident rows (4 warps of 16), BlockX streamed rows, two stages of cp.async.
// Measured: see NOTES.md.   Determinism: bitwise, no atomics.
// Requires: as forward_sm80.cu; prepare.cu before, its sum after where the queries are split.
#include "attention/warp_tile.cuh"
#include "common/shared.cuh"

namespace attention {

// Depth: D padded with zeros. Slice: gradient channels of a block.
template <class T_, int Depth_, int Slice_, int BlockX_>
struct BackwardTile {
  using T = T_;
  static constexpr int Depth = Depth_, Slice = Slice_, BlockR = 64, BlockX = BlockX_;
  struct Shared {
    Operand<T, BlockR, Depth> r[2];
    Operand<T, BlockX, Depth> x[2][2];  // stage, pair
  };
  static constexpr int BlockRows = BlockR, BlockCols = Slice, Stages = 2, Threads = 128;
  static constexpr int SharedBytes = sizeof(Shared);
  static constexpr int BlocksPerSm = SharedBytes > 100 << 10 ? 1 : 2;
  static_assert(SharedBytes <= 227 << 10, "shared memory of one block");
  static_assert(Depth % Slice == 0 && 128 % BlockX == 0, "whole slices; padded statistics");
};

// One block's operands and place. ForQ: the resident rows are queries.
template <class T, bool ForQ>
struct Work {
  Rows<const T> r[2], x[2];
  const float *lse2, *delta;  // of the head's queries
  int row0, head, slice, sample, split;
  __device__ Work(const BackwardArgs<T>& a, int block_rows) {
    row0 = int(blockIdx.x) * block_rows;
    head = int(blockIdx.y) % a.heads, slice = int(blockIdx.y) / a.heads;
    split = int(blockIdx.z) % a.splits, sample = int(blockIdx.z) / a.splits;
    const auto q = head_rows(a.q, sample, head, a.len_q, a.heads, a.head_dim);
    const auto k = head_rows(a.k, sample, head, a.len_k, a.heads, a.head_dim);
    const auto v = head_rows(a.v, sample, head, a.len_k, a.heads, a.head_dim);
    const auto d_out = head_rows(a.d_out, sample, head, a.len_q, a.heads, a.head_dim);
    r[0] = (ForQ ? q : k).from(row0), r[1] = (ForQ ? d_out : v).from(row0);
    x[0] = ForQ ? k : q, x[1] = ForQ ? v : d_out;
    const long long stat0 = ((long long)sample * a.heads + head) * a.stat_len;
    lse2 = a.lse2 + stat0, delta = a.delta + stat0;
  }
};

// Streamed blocks [begin, end) that the resident rows have anything to do with, of this split.
struct Range { int begin, end; };
template <class Tl, bool ForQ>
__device__ inline Range streamed(const BackwardArgs<typename Tl::T>& a, int row0, int split) {
  constexpr int X = Tl::BlockX;
  if (ForQ) {
    const int keys = a.causal ? min(a.len_k, row0 + Tl::BlockR) : a.len_k;
    return {0, (keys + X - 1) / X};
  }
  const int blocks = (a.len_q + X - 1) / X, first = a.causal ? row0 / X : 0;
  const int begin = int((long long)blocks * split / a.splits);
  return {max(begin, first), int((long long)blocks * (split + 1) / a.splits)};
}

// S becomes P and dP becomes dS. Statistics: of the lane's rows where these are queries, else read for the
// lane's columns; past Lq lse2 is +inf, so P is 0 there.
template <int N, bool ForQ, class T>
__device__ inline void to_gradients(Tile<N>& s, Tile<N>& dp, const BackwardArgs<T>& a, const Work<T, ForQ>& w,
                                    const float (&row_lse)[2], const float (&row_delta)[2], int row, int x0) {
  const float scale_log2 = a.scale * kLog2e;
#pragma unroll
  for (int n = 0; n < N / 8; ++n) {
    const int column = x0 + 8 * n + lane_column();
    float2 lse = {}, delta = {};
    if (!ForQ) {
      lse = *reinterpret_cast<const float2*>(w.lse2 + column);
      delta = *reinterpret_cast<const float2*>(w.delta + column);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float l = ForQ ? row_lse[i / 2] : i % 2 ? lse.y : lse.x;
      const float d = ForQ ? row_delta[i / 2] : i % 2 ? delta.y : delta.x;
      const int mine = row + i / 2 * 8, other = column + i % 2;
      const int query = ForQ ? mine : other, key = ForQ ? other : mine;
      const bool hidden = key >= a.len_k || (a.causal && key > query);
      const float p = hidden ? 0.0f : ptx::exp2_approx(s[n][i] * scale_log2 - l);
      s[n][i] = p;
      dp[n][i] = p * (dp[n][i] - d);
    }
  }
}

// Sums of one split in f32: acc * factor to (pad_k, D) of the head.
template <int N, class T>
__device__ inline void store_partial(const BackwardArgs<T>& a, const Work<T, false>& w, int which, int row,
                                     const Tile<N>& acc, float factor, int channel) {
  const long long head = ((long long)w.split * (gridDim.z / a.splits) + w.sample) * a.heads + w.head;
  float* to = a.partial + ((head * 2 + which) * a.pad_k + row) * a.head_dim;
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int c = channel + 8 * n + lane_column();
      if (c < a.head_dim)
        *reinterpret_cast<float2*>(to + 8 * h * a.head_dim + c) =
            make_float2(acc[n][2 * h] * factor, acc[n][2 * h + 1] * factor);
    }
}

// Block (resident block, head + H * slice, split + splits * sample). acc: dQ or dK; acc_v: dV.
template <class Tl, bool ForQ>
__device__ inline void accumulate(const BackwardArgs<typename Tl::T>& a, const Work<typename Tl::T, ForQ>& w,
                                  Tile<Tl::Slice> (&acc)[1], Tile<Tl::Slice> (&acc_v)[1]) {
  using T = typename Tl::T;
  constexpr int X = Tl::BlockX;
  auto& s = shared_memory<typename Tl::Shared>();
  const int warp_row = ptx::warp_id() * 16, row = w.row0 + warp_row + lane_row();
  const Range range = streamed<Tl, ForQ>(a, w.row0, w.split);
  float row_lse[2] = {}, row_delta[2] = {};
  if (ForQ)
#pragma unroll
    for (int h = 0; h < 2; ++h) row_lse[h] = w.lse2[row + 8 * h], row_delta[h] = w.delta[row + 8 * h];
  auto load = [&](int block) {
    auto& x = s.x[block % 2];
    start_load<Tl::Threads>(x[0], w.x[0].from(block * X), 0, a.head_dim);
    start_load<Tl::Threads>(x[1], w.x[1].from(block * X), 0, a.head_dim);
    ptx::cp_async_commit();
  };
  start_load<Tl::Threads>(s.r[0], w.r[0], 0, a.head_dim);
  start_load<Tl::Threads>(s.r[1], w.r[1], 0, a.head_dim);
  if (range.begin < range.end) load(range.begin);
  for (int block = range.begin; block < range.end; ++block) {
    if (block + 1 < range.end) load(block + 1);
    else ptx::cp_async_commit();  // an empty group, so that one group is always the next block's
    ptx::cp_async_wait<1>();
    __syncthreads();
    const auto& x = s.x[block % 2];
    Tile<X> score[1], d_prob[1];
    uint32_t p[1][X / 16][4], ds[1][X / 16][4];
    multiply_nt<X>(score, s.r[0], warp_row, x[0]);
    multiply_nt<X>(d_prob, s.r[1], warp_row, x[1]);
    to_gradients<X, ForQ>(score[0], d_prob[0], a, w, row_lse, row_delta, row, block * X);
    if (!ForQ) {
      pack<T, X>(p[0], score[0]);
      multiply_add<Tl::Slice, X>(acc_v, p, x[1], w.slice * Tl::Slice);
    }
    pack<T, X>(ds[0], d_prob[0]);
    multiply_add<Tl::Slice, X>(acc, ds, x[0], w.slice * Tl::Slice);
    __syncthreads();  // nobody reads this stage any more
  }
  ptx::cp_async_wait<0>();
  __syncthreads();  // the resident rows become staging; with no block at all their copy ends here
}

template <class Tl>
__device__ inline void backward_q(const BackwardArgs<typename Tl::T>& a) {
  using T = typename Tl::T;
  const Work<T, true> w(a, Tl::BlockR);
  Tile<Tl::Slice> dq[1], none[1];
  clear<Tl::Slice>(dq[0]);
  accumulate<Tl, true>(a, w, dq, none);
  auto& s = shared_memory<typename Tl::Shared>();
  const int warp_row = ptx::warp_id() * 16;
  const auto to = head_rows(a.dq, w.sample, w.head, a.len_q, a.heads, a.head_dim).from(w.row0 + warp_row);
  const float scale[2] = {a.scale, a.scale};
  store_rows<Tl::Slice>(s.r[0], warp_row, dq[0], scale, to, w.slice * Tl::Slice, a.head_dim, a.add_q);
}

template <class Tl>
__device__ inline void backward_kv(const BackwardArgs<typename Tl::T>& a) {
  using T = typename Tl::T;
  const Work<T, false> w(a, Tl::BlockR);
  Tile<Tl::Slice> dk[1], dv[1];
  clear<Tl::Slice>(dk[0]);
  clear<Tl::Slice>(dv[0]);
  accumulate<Tl, false>(a, w, dk, dv);
  auto& s = shared_memory<typename Tl::Shared>();
  const int warp_row = ptx::warp_id() * 16, first = w.row0 + warp_row, channel = w.slice * Tl::Slice;
  if (a.splits > 1) {
    store_partial<Tl::Slice>(a, w, 0, first + lane_row(), dk[0], a.scale, channel);
    store_partial<Tl::Slice>(a, w, 1, first + lane_row(), dv[0], 1.0f, channel);
    return;
  }
  const auto to_k = head_rows(a.dk, w.sample, w.head, a.len_k, a.heads, a.head_dim).from(first);
  const auto to_v = head_rows(a.dv, w.sample, w.head, a.len_k, a.heads, a.head_dim).from(first);
  const float scale[2] = {a.scale, a.scale}, one[2] = {1.0f, 1.0f};
  if (a.dk) store_rows<Tl::Slice>(s.r[0], warp_row, dk[0], scale, to_k, channel, a.head_dim, a.add_k);
  if (a.dv) store_rows<Tl::Slice>(s.r[1], warp_row, dv[0], one, to_v, channel, a.head_dim, a.add_v);
}

template <class T> using D48 = BackwardTile<T, 48, 48, 64>;
template <class T> using D64 = BackwardTile<T, 64, 64, 64>;
template <class T> using D80 = BackwardTile<T, 80, 80, 32>;
template <class T> using D128 = BackwardTile<T, 128, 128, 16>;
template <class T> using D160 = BackwardTile<T, 160, 160, 16>;
template <class T> using D512 = BackwardTile<T, 512, 128, 16>;

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_q_sm80_d48_bf16, D48<bf16>, BackwardArgs<bf16>, backward_q<D48<bf16>>)
EXPORT(attention_backward_q_sm80_d64_bf16, D64<bf16>, BackwardArgs<bf16>, backward_q<D64<bf16>>)
EXPORT(attention_backward_q_sm80_d80_bf16, D80<bf16>, BackwardArgs<bf16>, backward_q<D80<bf16>>)
EXPORT(attention_backward_q_sm80_d128_bf16, D128<bf16>, BackwardArgs<bf16>, backward_q<D128<bf16>>)
EXPORT(attention_backward_q_sm80_d160_bf16, D160<bf16>, BackwardArgs<bf16>, backward_q<D160<bf16>>)
EXPORT(attention_backward_q_sm80_d512_bf16, D512<bf16>, BackwardArgs<bf16>, backward_q<D512<bf16>>)
EXPORT(attention_backward_q_sm80_d48_f16, D48<f16>, BackwardArgs<f16>, backward_q<D48<f16>>)
EXPORT(attention_backward_q_sm80_d64_f16, D64<f16>, BackwardArgs<f16>, backward_q<D64<f16>>)
EXPORT(attention_backward_q_sm80_d80_f16, D80<f16>, BackwardArgs<f16>, backward_q<D80<f16>>)
EXPORT(attention_backward_q_sm80_d128_f16, D128<f16>, BackwardArgs<f16>, backward_q<D128<f16>>)
EXPORT(attention_backward_q_sm80_d160_f16, D160<f16>, BackwardArgs<f16>, backward_q<D160<f16>>)
EXPORT(attention_backward_q_sm80_d512_f16, D512<f16>, BackwardArgs<f16>, backward_q<D512<f16>>)
EXPORT(attention_backward_kv_sm80_d48_bf16, D48<bf16>, BackwardArgs<bf16>, backward_kv<D48<bf16>>)
EXPORT(attention_backward_kv_sm80_d64_bf16, D64<bf16>, BackwardArgs<bf16>, backward_kv<D64<bf16>>)
EXPORT(attention_backward_kv_sm80_d80_bf16, D80<bf16>, BackwardArgs<bf16>, backward_kv<D80<bf16>>)
EXPORT(attention_backward_kv_sm80_d128_bf16, D128<bf16>, BackwardArgs<bf16>, backward_kv<D128<bf16>>)
EXPORT(attention_backward_kv_sm80_d160_bf16, D160<bf16>, BackwardArgs<bf16>, backward_kv<D160<bf16>>)
EXPORT(attention_backward_kv_sm80_d512_bf16, D512<bf16>, BackwardArgs<bf16>, backward_kv<D512<bf16>>)
EXPORT(attention_backward_kv_sm80_d48_f16, D48<f16>, BackwardArgs<f16>, backward_kv<D48<f16>>)
EXPORT(attention_backward_kv_sm80_d64_f16, D64<f16>, BackwardArgs<f16>, backward_kv<D64<f16>>)
EXPORT(attention_backward_kv_sm80_d80_f16, D80<f16>, BackwardArgs<f16>, backward_kv<D80<f16>>)
EXPORT(attention_backward_kv_sm80_d128_f16, D128<f16>, BackwardArgs<f16>, backward_kv<D128<f16>>)
EXPORT(attention_backward_kv_sm80_d160_f16, D160<f16>, BackwardArgs<f16>, backward_kv<D160<f16>>)
EXPORT(attention_backward_kv_sm80_d512_f16, D512<f16>, BackwardArgs<f16>, backward_kv<D512<f16>>)
