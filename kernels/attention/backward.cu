// attention backward, any type, any head dimension.   Q, dQ: (N, Lq, H, D)  K, V, dK, dV: (N, Lk, H, D).
// dV = P^T dO,  dS = P o (dO V^T - delta),  dK = scale dS^T Q,  dQ = scale dS K;  P is recomputed from LSE.
// Two kernels, so that one block makes a gradient row: `kv` owns keys and streams queries, `q` the reverse.
// Work: 14*N*H*Lq*Lk*D flop (7 products, 5 are the minimum), half when causal; scores again for every slice
//   after the first.  Bytes: N*H*D*(4 Lq + 4 Lk) elements + 8*N*H*Lq.
//   SDXL 1024 tokens, H=20, D=64: 19 GFLOP; at 67 TFLOP/s of f32 280 us: compute-bound.
// Tile: 32 x 32 scores, 64 channels at a time; 64 threads of 4 x 4 scores; 31 KiB of shared memory.
//   One block makes `Slice` gradient channels.  The biased q kernel also sums dS for the bias, a thread a query, in
//   global f32 rows of its own (N, L, H, bins).   Measured: see NOTES.md.
// Determinism: bitwise, no atomics.   Requires: delta from prepare.cu where dQ or dK is wanted.
#include "attention/panel.cuh"

namespace attention {

struct BackwardShared {
  Panel r0, r1;  // resident: K, V or Q, dO
  Panel x;       // streamed
  ScoreTile p;
};

template <class T_, int Slice_>
struct BackwardTile {
  using T = T_;
  static constexpr int Slice = Slice_;
  static constexpr int BlockRows = Simt::Rows, BlockCols = Slice, Stages = 1, Threads = Simt::Threads;
  static constexpr int SharedBytes = sizeof(BackwardShared), BlocksPerSm = 4;
};

// One head of every operand, and the statistics of its queries.
template <class T>
struct Head {
  Rows<const T> q, k, v, d_out;
  const float *lse, *delta;
  int heads;
  __device__ Head(const BackwardArgs<T>& a, int head, int sample)
      : q(head_rows(a.q, sample, head, a.len_q, a.heads, a.head_dim)),
        k(head_rows(a.k, sample, head, a.len_k, a.heads, a.head_dim)),
        v(head_rows(a.v, sample, head, a.len_k, a.heads, a.head_dim)),
        d_out(head_rows(a.d_out, sample, head, a.len_q, a.heads, a.head_dim)),
        lse(a.lse + (long long)sample * a.len_q * a.heads + head),
        delta(a.delta + ((long long)sample * a.heads + head) * a.stat_len),
        heads(a.heads) {}
  __device__ float lse_of(int query) const { return lse[(long long)query * heads]; }
};

// exp(scale s + bias - lse) where the query sees the key, else 0.
template <class T, class B>
__device__ inline float probability(const BackwardArgs<T>& a, const B& bias, int head, float s, float lse,
                                    int query, int key) {
  const bool seen = query < a.len_q && key < a.len_k && (!a.causal || key <= query);
  if (!seen) return 0.0f;
  if constexpr (B::Biased)
    return expf(s * a.scale + bias.at(Query(int(blockIdx.z), head, query, a.len_q, a.heads), key) - lse);
  return expf(s * a.scale - lse);
}

// The block's dS (32, 32) to the sums of the bias: a thread owns a query's.
template <class T, class B>
__device__ inline void collect(const ScoreTile& ds, const BackwardArgs<T>& a, const B& bias, int head, int row0,
                               int key0) {
  const int r = int(threadIdx.x), row = row0 + r;
  __syncthreads();
  if (r >= Simt::Rows || row >= a.len_q) return;
  const Query q(int(blockIdx.z), head, row, a.len_q, a.heads);
  for (int c = 0; c < min(Simt::Rows, a.len_k - key0); ++c) bias.collect(q, key0 + c, ds.v[r][c]);
}

// Zeros in the sums of the block's queries, by the threads that own them.
template <class T, class B>
__device__ inline void clear_bins(const BackwardArgs<T>& a, const B& bias, int head, int row0) {
  const int row = row0 + int(threadIdx.x);
  if (int(threadIdx.x) >= Simt::Rows || row >= a.len_q) return;
  float* own = bias.bins + Query(int(blockIdx.z), head, row, a.len_q, a.heads).row * bias.bin_count();
  for (int i = 0; i < bias.bin_count(); ++i) own[i] = 0.0f;
}

// Block (query block, head + H * slice, sample).
template <class Tile, class B>
__device__ inline void queries(const BackwardArgs<typename Tile::T>& a, const B& bias) {
  using T = typename Tile::T;
  auto& s = shared_memory<BackwardShared>();
  const int row0 = int(blockIdx.x) * Simt::Rows, sample = int(blockIdx.z);
  const int head = int(blockIdx.y) % a.heads, slice = int(blockIdx.y) / a.heads;
  const Head<T> h(a, head, sample);
  Accumulator<Tile::Slice> dq;
  dq.clear();
  float lse[Simt::Own], delta[Simt::Own], factor[Simt::Own];
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) {
    const int row = min(row0 + own_row(i), a.len_q - 1);  // a row that does not exist has probability 0
    lse[i] = h.lse_of(row);
    delta[i] = h.delta[row];
    factor[i] = a.scale;
  }
  bool collects = false;
  if constexpr (B::Biased) {
    collects = bias.bins && slice == 0;
    if (collects) clear_bins(a, bias, head, row0);
  }
  const int last = a.causal ? min(a.len_k, row0 + Simt::Rows) : a.len_k;
  for (int key0 = 0; key0 < last; key0 += Simt::Rows) {
    Scores score, d_prob;
    dots<T>(d_prob, s.r1, s.x, h.d_out.from(row0), h.v.from(key0), a.head_dim, key0 > 0);
    dots<T>(score, s.r0, s.x, h.q.from(row0), h.k.from(key0), a.head_dim, key0 > 0);
#pragma unroll
    for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
      for (int j = 0; j < Simt::Own; ++j) {
        const int row = row0 + own_row(i), key = key0 + own_column(j);
        d_prob[i][j] = probability(a, bias, head, score[i][j], lse[i], row, key) * (d_prob[i][j] - delta[i]);
      }
    store_tile(s.p, d_prob);
    if constexpr (B::Biased)
      if (collects) collect(s.p, a, bias, head, row0, key0);
    if (!B::Biased || a.dq) product<Tile::Slice, T>(dq, s.p, s.x, h.k.from(key0), slice, a.head_dim, true);
  }
  if (B::Biased && !a.dq) return;
  const auto to = head_rows(a.dq, sample, head, a.len_q, a.heads, a.head_dim).from(row0);
  store<Tile::Slice>(to, dq, factor, slice, a.head_dim, a.add_q);
}

// dK and dV (or one of them) of 32 keys. Score rows are keys, columns queries.
template <class Tile, class B>
__device__ inline void keys(const BackwardArgs<typename Tile::T>& a, const B& bias) {
  using T = typename Tile::T;
  auto& s = shared_memory<BackwardShared>();
  const int key0 = int(blockIdx.x) * Simt::Rows, sample = int(blockIdx.z);
  const int head = int(blockIdx.y) % a.heads, slice = int(blockIdx.y) / a.heads;
  const Head<T> h(a, head, sample);
  Accumulator<Tile::Slice> dk, dv;
  dk.clear();
  dv.clear();
  const int first = a.causal ? key0 : 0;  // both blocks have 32 rows: earlier queries see none of these keys
  for (int row0 = first; row0 < a.len_q; row0 += Simt::Rows) {
    Scores prob, d_score;
    dots<T>(prob, s.r0, s.x, h.k.from(key0), h.q.from(row0), a.head_dim, row0 > first);
#pragma unroll
    for (int j = 0; j < Simt::Own; ++j) {
      const int row = row0 + own_column(j);
      const float lse = h.lse_of(min(row, a.len_q - 1));
#pragma unroll
      for (int i = 0; i < Simt::Own; ++i)
        prob[i][j] = probability(a, bias, head, prob[i][j], lse, row, key0 + own_row(i));
    }
    if (a.dk) {
      dots<T>(d_score, s.r1, s.x, h.v.from(key0), h.d_out.from(row0), a.head_dim, row0 > first);
#pragma unroll
      for (int j = 0; j < Simt::Own; ++j) {
        const float delta = h.delta[min(row0 + own_column(j), a.len_q - 1)];
#pragma unroll
        for (int i = 0; i < Simt::Own; ++i) d_score[i][j] = prob[i][j] * (d_score[i][j] - delta);
      }
    }
    if (a.dv) {
      store_tile(s.p, prob);
      product<Tile::Slice, T>(dv, s.p, s.x, h.d_out.from(row0), slice, a.head_dim, a.dk != nullptr);
    }
    if (a.dk) {
      store_tile(s.p, d_score);
      product<Tile::Slice, T>(dk, s.p, s.x, h.q.from(row0), slice, a.head_dim, false);
    }
  }
  const float scale[Simt::Own] = {a.scale, a.scale, a.scale, a.scale}, one[Simt::Own] = {1, 1, 1, 1};
  const auto to_k = head_rows(a.dk, sample, head, a.len_k, a.heads, a.head_dim).from(key0);
  const auto to_v = head_rows(a.dv, sample, head, a.len_k, a.heads, a.head_dim).from(key0);
  if (a.dk) store<Tile::Slice>(to_k, dk, scale, slice, a.head_dim, a.add_k);
  if (a.dv) store<Tile::Slice>(to_v, dv, one, slice, a.head_dim, a.add_v);
}

template <class Tile>
__device__ inline void backward_q(const BackwardArgs<typename Tile::T>& a) { queries<Tile>(a, NoBias{}); }
template <class Tile>
__device__ inline void backward_kv(const BackwardArgs<typename Tile::T>& a) { keys<Tile>(a, NoBias{}); }
template <class Tile>
__device__ inline void biased_q(const BiasedBackwardArgs<typename Tile::T>& a) { queries<Tile>(a.plain, a.bias); }
template <class Tile>
__device__ inline void biased_kv(const BiasedBackwardArgs<typename Tile::T>& a) { keys<Tile>(a.plain, a.bias); }

using F32S64 = BackwardTile<float, 64>;
using F32S128 = BackwardTile<float, 128>;
using Bf16S64 = BackwardTile<bf16, 64>;
using Bf16S128 = BackwardTile<bf16, 128>;
using F16S64 = BackwardTile<f16, 64>;
using F16S128 = BackwardTile<f16, 128>;

}  // namespace attention

using namespace attention;
EXPORT(attention_backward_q_simt64_f32, F32S64, BackwardArgs<float>, backward_q<F32S64>)
EXPORT(attention_backward_q_simt64_bf16, Bf16S64, BackwardArgs<bf16>, backward_q<Bf16S64>)
EXPORT(attention_backward_q_simt64_f16, F16S64, BackwardArgs<f16>, backward_q<F16S64>)
EXPORT(attention_backward_q_simt128_f32, F32S128, BackwardArgs<float>, backward_q<F32S128>)
EXPORT(attention_backward_q_simt128_bf16, Bf16S128, BackwardArgs<bf16>, backward_q<Bf16S128>)
EXPORT(attention_backward_q_simt128_f16, F16S128, BackwardArgs<f16>, backward_q<F16S128>)
EXPORT(attention_backward_kv_simt64_f32, F32S64, BackwardArgs<float>, backward_kv<F32S64>)
EXPORT(attention_backward_kv_simt64_bf16, Bf16S64, BackwardArgs<bf16>, backward_kv<Bf16S64>)
EXPORT(attention_backward_kv_simt64_f16, F16S64, BackwardArgs<f16>, backward_kv<F16S64>)
EXPORT(attention_backward_kv_simt128_f32, F32S128, BackwardArgs<float>, backward_kv<F32S128>)
EXPORT(attention_backward_kv_simt128_bf16, Bf16S128, BackwardArgs<bf16>, backward_kv<Bf16S128>)
EXPORT(attention_backward_kv_simt128_f16, F16S128, BackwardArgs<f16>, backward_kv<F16S128>)
EXPORT(attention_biased_q_simt64_f32, F32S64, BiasedBackwardArgs<float>, biased_q<F32S64>)
EXPORT(attention_biased_q_simt64_bf16, Bf16S64, BiasedBackwardArgs<bf16>, biased_q<Bf16S64>)
EXPORT(attention_biased_q_simt64_f16, F16S64, BiasedBackwardArgs<f16>, biased_q<F16S64>)
EXPORT(attention_biased_q_simt128_f32, F32S128, BiasedBackwardArgs<float>, biased_q<F32S128>)
EXPORT(attention_biased_q_simt128_bf16, Bf16S128, BiasedBackwardArgs<bf16>, biased_q<Bf16S128>)
EXPORT(attention_biased_q_simt128_f16, F16S128, BiasedBackwardArgs<f16>, biased_q<F16S128>)
EXPORT(attention_biased_kv_simt64_f32, F32S64, BiasedBackwardArgs<float>, biased_kv<F32S64>)
EXPORT(attention_biased_kv_simt64_bf16, Bf16S64, BiasedBackwardArgs<bf16>, biased_kv<Bf16S64>)
EXPORT(attention_biased_kv_simt64_f16, F16S64, BiasedBackwardArgs<f16>, biased_kv<F16S64>)
EXPORT(attention_biased_kv_simt128_f32, F32S128, BiasedBackwardArgs<float>, biased_kv<F32S128>)
EXPORT(attention_biased_kv_simt128_bf16, Bf16S128, BiasedBackwardArgs<bf16>, biased_kv<Bf16S128>)
EXPORT(attention_biased_kv_simt128_f16, F16S128, BiasedBackwardArgs<f16>, biased_kv<F16S128>)
