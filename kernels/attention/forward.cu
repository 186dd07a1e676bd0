// attention forward, any type, any head dimension.   O = softmax(scale Q K^T) V, LSE saved.
// Q, O: (N, Lq, H, D)  K, V: (N, Lk, H, D).
// The kernel that always applies: f32, head dimensions that no tensor-core variant takes, tiny models.
// Work: 4*N*H*Lq*Lk*D flop, half when causal, plus 2*N*H*Lq*Lk*D for every output slice after the first.
// Bytes: N*H*D*(2 Lq + 2 Lk) elements + 4*N*H*Lq.  SDXL 1024 tokens, H=20, D=64: 5.4 GFLOP; at 67 TFLOP/s
//   of f32 80 us: compute-bound.
// Tile: 32 queries x 32 keys, 64 channels at a time; 64 threads of 4 x 4 scores; 23 KiB of shared memory.
//   One block makes `Slice` output channels.   Measured: see NOTES.md.
// The biased kernels add what bias.rs says to the scores; every element finds its own values: 2 loads and 2 divisions.
// Determinism: bitwise, one block makes a row in one key order.   Requires: Lk >= 1; every tail is masked.
#include "attention/panel.cuh"

namespace attention {

struct ForwardShared {
  Panel q, kv;
  ScoreTile p;
  float partial[Simt::Rows][8];  // a row's maximum or sum over the columns of each tx
};

// The biased kernels need more registers than six blocks leave.
template <class T_, int Slice_, bool Biased = false>
struct ForwardTile {
  using T = T_;
  static constexpr int Slice = Slice_;
  static constexpr int BlockRows = Simt::Rows, BlockCols = Slice, Stages = 1, Threads = Simt::Threads;
  static constexpr int SharedBytes = sizeof(ForwardShared), BlocksPerSm = Slice == 64 && !Biased ? 6 : 4;
};

// The running softmax of a thread's rows; `sum` is over the thread's own columns.
struct Softmax { float top[Simt::Own], sum[Simt::Own], rescale[Simt::Own]; };

// Keys that do not exist or lie behind a causal query get -inf; the others the scaled score.
template <class T, class B>
__device__ inline void mask(Scores& s, const ForwardArgs<T>& a, const B& bias, int head, int row0, int key0) {
  const int sample = int(blockIdx.z);
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
    for (int j = 0; j < Simt::Own; ++j) {
      const int key = key0 + own_column(j);
      const int row = row0 + own_row(i);
      const bool seen = key < a.len_k && (!a.causal || key <= row);
      s[i][j] = seen ? s[i][j] * a.scale : -INFINITY;
      if constexpr (B::Biased)
        if (seen && row < a.len_q) s[i][j] += bias.at(Query(sample, head, row, a.len_q, a.heads), key);
    }
}

// s becomes exp(s - top); every row sees at least one key of every block it visits, so top is finite.
__device__ inline void soften(Scores& s, Softmax& st, float (&partial)[Simt::Rows][8]) {
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i)
    partial[own_row(i)][thread_x()] = fmaxf(fmaxf(s[i][0], s[i][1]), fmaxf(s[i][2], s[i][3]));
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) {
    float top = st.top[i];
#pragma unroll
    for (int x = 0; x < 8; ++x) top = fmaxf(top, partial[own_row(i)][x]);
    st.rescale[i] = expf(st.top[i] - top);
    st.top[i] = top;
    st.sum[i] *= st.rescale[i];
#pragma unroll
    for (int j = 0; j < Simt::Own; ++j) {
      s[i][j] = expf(s[i][j] - top);
      st.sum[i] += s[i][j];
    }
  }
}

// The rows' full sums, in every thread.
__device__ inline void total(Softmax& st, float (&partial)[Simt::Rows][8]) {
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) partial[own_row(i)][thread_x()] = st.sum[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) {
    st.sum[i] = 0.0f;
#pragma unroll
    for (int x = 0; x < 8; ++x) st.sum[i] += partial[own_row(i)][x];
  }
}

// Block (query block, head + H * slice, sample).
template <class Tile, class B>
__device__ inline void attend(const ForwardArgs<typename Tile::T>& a, const B& bias) {
  using T = typename Tile::T;
  auto& s = shared_memory<ForwardShared>();
  const int row0 = int(blockIdx.x) * Simt::Rows, sample = int(blockIdx.z);
  const int head = int(blockIdx.y) % a.heads, slice = int(blockIdx.y) / a.heads;
  const auto q = head_rows(a.q, sample, head, a.len_q, a.heads, a.head_dim).from(row0);
  const auto k = head_rows(a.k, sample, head, a.len_k, a.heads, a.head_dim);
  const auto v = head_rows(a.v, sample, head, a.len_k, a.heads, a.head_dim);
  Accumulator<Tile::Slice> out;
  out.clear();
  Softmax st = {{-INFINITY, -INFINITY, -INFINITY, -INFINITY}, {}, {}};
  const int last = a.causal ? min(a.len_k, row0 + Simt::Rows) : a.len_k;
  for (int key0 = 0; key0 < last; key0 += Simt::Rows) {
    Scores score;
    dots<T>(score, s.q, s.kv, q, k.from(key0), a.head_dim, key0 > 0);
    mask(score, a, bias, head, row0, key0);
    soften(score, st, s.partial);
#pragma unroll
    for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
      for (int g = 0; g < out.Groups; ++g)
#pragma unroll
        for (int c = 0; c < 4; ++c) out.v[i][g][c] *= st.rescale[i];
    store_tile(s.p, score);
    product<Tile::Slice, T>(out, s.p, s.kv, v.from(key0), slice, a.head_dim, false);
  }
  total(st, s.partial);
  float factor[Simt::Own];
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) {
    const int row = row0 + own_row(i);
    factor[i] = 1.0f / st.sum[i];
    if (slice == 0 && thread_x() == 0 && row < a.len_q)
      a.lse[((long long)sample * a.len_q + row) * a.heads + head] = st.top[i] + logf(st.sum[i]);
  }
  const auto o = head_rows(a.out, sample, head, a.len_q, a.heads, a.head_dim).from(row0);
  store<Tile::Slice>(o, out, factor, slice, a.head_dim, false);
}

template <class Tile>
__device__ inline void forward(const ForwardArgs<typename Tile::T>& a) {
  attend<Tile>(a, NoBias{});
}

template <class Tile>
__device__ inline void biased(const BiasedForwardArgs<typename Tile::T>& a) {
  attend<Tile>(a.plain, a.bias);
}

using F32S64 = ForwardTile<float, 64>;
using F32S128 = ForwardTile<float, 128>;
using Bf16S64 = ForwardTile<bf16, 64>;
using Bf16S128 = ForwardTile<bf16, 128>;
using F16S64 = ForwardTile<f16, 64>;
using F16S128 = ForwardTile<f16, 128>;
using F32Biased64 = ForwardTile<float, 64, true>;
using F32Biased128 = ForwardTile<float, 128, true>;
using Bf16Biased64 = ForwardTile<bf16, 64, true>;
using Bf16Biased128 = ForwardTile<bf16, 128, true>;
using F16Biased64 = ForwardTile<f16, 64, true>;
using F16Biased128 = ForwardTile<f16, 128, true>;

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_simt64_f32, F32S64, ForwardArgs<float>, forward<F32S64>)
EXPORT(attention_forward_simt64_bf16, Bf16S64, ForwardArgs<bf16>, forward<Bf16S64>)
EXPORT(attention_forward_simt64_f16, F16S64, ForwardArgs<f16>, forward<F16S64>)
EXPORT(attention_forward_simt128_f32, F32S128, ForwardArgs<float>, forward<F32S128>)
EXPORT(attention_forward_simt128_bf16, Bf16S128, ForwardArgs<bf16>, forward<Bf16S128>)
EXPORT(attention_forward_simt128_f16, F16S128, ForwardArgs<f16>, forward<F16S128>)
EXPORT(attention_biased_forward_simt64_f32, F32Biased64, BiasedForwardArgs<float>, biased<F32Biased64>)
EXPORT(attention_biased_forward_simt64_bf16, Bf16Biased64, BiasedForwardArgs<bf16>, biased<Bf16Biased64>)
EXPORT(attention_biased_forward_simt64_f16, F16Biased64, BiasedForwardArgs<f16>, biased<F16Biased64>)
EXPORT(attention_biased_forward_simt128_f32, F32Biased128, BiasedForwardArgs<float>, biased<F32Biased128>)
EXPORT(attention_biased_forward_simt128_bf16, Bf16Biased128, BiasedForwardArgs<bf16>, biased<Bf16Biased128>)
EXPORT(attention_biased_forward_simt128_f16, F16Biased128, BiasedForwardArgs<f16>, biased<F16Biased128>)
