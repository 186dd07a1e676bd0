// attention forward, bf16/f16, mma.sync.   O = softmax(scale Q K^T) V, LSE saved.
// Q, O: (N, Lq, H, D)  K, V: (N, Lk, H, D).
// Work: 4*N*H*Lq*Lk*D flop, half when causal; D = 512 makes its output in 2 slices: 6*N*H*Lq*Lk*D.
// Bytes: 2*N*H*D*(2 Lq + 2 Lk) + 4*N*H*Lq.  SD 1.5, 4096 tokens, H=8, D=40: 21 GFLOP, 11 MB; padded to 48:
//   26 GFLOP; mma.sync reaches about 60 % of 989 TFLOP/s on Hopper -> 43 us; on an A100 (312) 84 us.
// Tile: Warps * 16 * MTiles queries x BlockN keys. V of a block arrives during Q K^T, the next K during P V:
//   one buffer of each is enough.   Measured: see NOTES.md.
// The biased kernels hold the queries' values of the bias (up to 128 of a query), or the head's table, in shared memory
//   as T: 33 KiB; two reads an element of the scores.
// Determinism: bitwise, one warp makes a row in ascending key order.
// Requires: D % 8 == 0, 16-byte aligned operands, scale > 0, Lk >= 1; every tail is masked.
#include "attention/warp_tile.cuh"
#include "common/shared.cuh"

namespace attention {

// What the block's scores take from: for every query its values for each row of keys, then for each column; or the
// head's table of offsets.
template <class T, int BlockM>
struct BiasBins {
  static constexpr int Most = 128, Pitch = Most + 2;  // eight rows begin in different banks
  T v[BlockM][Pitch];
};

// Depth: D padded with zeros. Slice: output channels of a block.
template <class T_, int Depth_, int Slice_, int Warps_, int MTiles_, int BlockN_, bool Biased_ = false>
struct ForwardTile {
  static constexpr bool Biased = Biased_;
  using T = T_;
  static constexpr int Depth = Depth_, Slice = Slice_, Warps = Warps_, MTiles = MTiles_, BlockN = BlockN_;
  static constexpr int WarpRows = 16 * MTiles, BlockM = Warps * WarpRows;
  struct Shared {
    Operand<T, BlockM, Depth> q;
    Operand<T, BlockN, Depth> k;
    Operand<T, BlockN, Slice> v;
  };
  struct BiasedShared : Shared { BiasBins<T, BlockM> bins; };
  static constexpr int BlockRows = BlockM, BlockCols = Slice, Stages = 1, Threads = 32 * Warps;
  static constexpr int SharedBytes = Biased ? sizeof(BiasedShared) : sizeof(Shared);
  static constexpr int BlocksPerSm = SharedBytes > 100 << 10 ? 1 : 2;
  static_assert(SharedBytes <= 227 << 10, "shared memory of one block");
  static_assert(Depth % Slice == 0, "whole slices");
};

// The running softmax of a lane's rows q and q + 8 of a tile; `sum` is over the lane's own columns.
struct Softmax { float top[2], sum[2]; };

// Keys that do not exist or lie behind a causal query get -inf. `row`: the lane's first row.
template <int N>
__device__ inline void mask(Tile<N>& s, int row, int key0, int len_k, bool causal) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = key0 + 8 * n + lane_column() + i % 2;
      if (key >= len_k || (causal && key > row + i / 2 * 8)) s[n][i] = -INFINITY;
    }
}

// s becomes exp2(scale_log2 (s - top)); the rows' earlier results shrink by `rescale`. Every row sees a key
// of the first block, so top is finite.
template <int N>
__device__ inline void soften(Tile<N>& s, Softmax& st, float (&rescale)[2], float scale_log2) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = st.top[h];
#pragma unroll
    for (int n = 0; n < N / 8; ++n) top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    top = fmaxf(top, ptx::shfl_xor(top, 1));
    top = fmaxf(top, ptx::shfl_xor(top, 2));
    rescale[h] = ptx::exp2_approx((st.top[h] - top) * scale_log2);
    st.top[h] = top;
    float sum = 0.0f;
#pragma unroll
    for (int n = 0; n < N / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = s[n][2 * h + c];
        x = ptx::exp2_approx((x - top) * scale_log2);
        sum += x;
      }
    st.sum[h] = st.sum[h] * rescale[h] + sum;
  }
}

// The block's part of the bias, from global to shared memory; the caller synchronizes.
template <class Tl>
__device__ inline void load_bias(BiasBins<typename Tl::T, Tl::BlockM>& to, const GridBias<typename Tl::T>& b,
                                 const ForwardArgs<typename Tl::T>& a, int sample, int head, int row0) {
  using T = typename Tl::T;
  if (!b.second) {
    const int len = b.rows * b.cols;
    for (int i = int(threadIdx.x); i < len; i += Tl::Threads) (&to.v[0][0])[i] = b.first[(long long)head * len + i];
    return;
  }
  const int width = b.rows + b.cols;
  for (int i = int(threadIdx.x); i < Tl::BlockM * width; i += Tl::Threads) {
    const int r = i / width, c = i - r * width, query = min(row0 + r, a.len_q - 1);
    const Query q(sample, head, query, a.len_q, a.heads);
    const int y = query / b.cols, x = query - y * b.cols;
    const T* from = c < b.rows ? b.first + q.row * (2 * b.rows - 1) + y - c + b.rows - 1
                               : b.second + q.row * (2 * b.cols - 1) + x - (c - b.rows) + b.cols - 1;
    to.v[r][c] = *from;
  }
}

// Adds bias / scale to a lane's part of a tile; `in_block`, `row`: the lane's first row in the block and at all.
template <class Tl>
__device__ inline void add_bias(Tile<Tl::BlockN>& s, const BiasBins<typename Tl::T, Tl::BlockM>& bins,
                                const GridBias<typename Tl::T>& b, const ForwardArgs<typename Tl::T>& a, int in_block,
                                int row, int key0) {
  const float inverse = 1.0f / a.scale;
  int y[2], x[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) y[h] = (row + 8 * h) / b.cols, x[h] = row + 8 * h - y[h] * b.cols;
#pragma unroll
  for (int n = 0; n < Tl::BlockN / 8; ++n)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int key = min(key0 + 8 * n + lane_column() + c, a.len_k - 1);
      const int v = key / b.cols, u = key - v * b.cols;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float value;
        if (b.second) {
          const auto& own = bins.v[in_block + 8 * h];
          value = to_f32(own[v]) + to_f32(own[b.rows + u]);
        } else {  // a row past the last query: any value will do
          value = to_f32((&bins.v[0][0])[min(abs(y[h] - v), b.rows - 1) * b.cols + abs(x[h] - u)]);
        }
        s[n][2 * h + c] += value * inverse;
      }
    }
}

// Scores of the warp's tiles against the keys in `s.k`, softened and packed; scales `out` accordingly.
template <class Tl, class B>
__device__ inline void attend(typename Tl::Shared& s, const ForwardArgs<typename Tl::T>& a, const B& bias, int row0,
                              int key0, Softmax (&st)[Tl::MTiles], Tile<Tl::Slice> (&out)[Tl::MTiles],
                              uint32_t (&p)[Tl::MTiles][Tl::BlockN / 16][4]) {
  Tile<Tl::BlockN> score[Tl::MTiles];
  const int in_block = ptx::warp_id() * Tl::WarpRows, end = key0 + Tl::BlockN;
  multiply_nt<Tl::BlockN>(score, s.q, in_block, s.k);
#pragma unroll
  for (int m = 0; m < Tl::MTiles; ++m) {
    const int first = row0 + in_block + 16 * m;
    if constexpr (Tl::Biased)
      add_bias<Tl>(score[m], static_cast<typename Tl::BiasedShared&>(s).bins, bias, a,
                   in_block + 16 * m + lane_row(), first + lane_row(), key0);
    if (end > a.len_k || (a.causal && end > first + 1))
      mask<Tl::BlockN>(score[m], first + lane_row(), key0, a.len_k, a.causal);
    float rescale[2];
    soften<Tl::BlockN>(score[m], st[m], rescale, a.scale * kLog2e);
#pragma unroll
    for (int n = 0; n < Tl::Slice / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) out[m][n][i] *= rescale[i / 2];
    pack<typename Tl::T, Tl::BlockN>(p[m], score[m]);
  }
}

// Output and LSE of one 16-row tile.
template <class Tl>
__device__ inline void finish(typename Tl::Shared& s, const ForwardArgs<typename Tl::T>& a, int row0, int m,
                              int sample, int head, int slice, Softmax& st, Tile<Tl::Slice>& out) {
  const int in_block = ptx::warp_id() * Tl::WarpRows + 16 * m, first = row0 + in_block;
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = st.sum[h];
    sum += ptx::shfl_xor(sum, 1);
    sum += ptx::shfl_xor(sum, 2);
    factor[h] = ptx::rcp_approx(sum);
    const int row = first + lane_row() + 8 * h;
    if (slice == 0 && lane_column() == 0 && row < a.len_q)
      a.lse[((long long)sample * a.len_q + row) * a.heads + head] =
          st.top[h] * a.scale + ptx::log2_approx(sum) * kLn2;
  }
  const auto o = head_rows(a.out, sample, head, a.len_q, a.heads, a.head_dim).from(first);
  store_rows<Tl::Slice>(s.q, in_block, out, factor, o, slice * Tl::Slice, a.head_dim, false);
}

// Block (query block, head + H * slice, sample).
template <class Tl, class B>
__device__ inline void run(typename Tl::Shared& s, const ForwardArgs<typename Tl::T>& a, const B& bias) {
  using T = typename Tl::T;
  const int row0 = int(blockIdx.x) * Tl::BlockM, sample = int(blockIdx.z);
  const int head = int(blockIdx.y) % a.heads, slice = int(blockIdx.y) / a.heads;
  const Rows<const T> q = head_rows(a.q, sample, head, a.len_q, a.heads, a.head_dim).from(row0);
  const Rows<const T> k = head_rows(a.k, sample, head, a.len_k, a.heads, a.head_dim);
  const Rows<const T> v = head_rows(a.v, sample, head, a.len_k, a.heads, a.head_dim);
  Tile<Tl::Slice> out[Tl::MTiles];
  Softmax st[Tl::MTiles];
#pragma unroll
  for (int m = 0; m < Tl::MTiles; ++m) {
    clear<Tl::Slice>(out[m]);
    st[m] = {{-INFINITY, -INFINITY}, {}};
  }
  const int last = a.causal ? min(a.len_k, row0 + Tl::BlockM) : a.len_k;
  start_load<Tl::Threads>(s.q, q, 0, a.head_dim);
  start_load<Tl::Threads>(s.k, k, 0, a.head_dim);
  ptx::cp_async_commit();
  if constexpr (Tl::Biased)
    load_bias<Tl>(static_cast<typename Tl::BiasedShared&>(s).bins, bias, a, sample, head, row0);
  for (int key0 = 0; key0 < last; key0 += Tl::BlockN) {
    uint32_t p[Tl::MTiles][Tl::BlockN / 16][4];
    ptx::cp_async_wait<0>();
    __syncthreads();  // K is here, and nobody reads the previous V any more
    start_load<Tl::Threads>(s.v, v.from(key0), slice * Tl::Slice, a.head_dim);
    ptx::cp_async_commit();
    attend<Tl>(s, a, bias, row0, key0, st, out, p);
    ptx::cp_async_wait<0>();
    __syncthreads();  // V is here, and nobody reads this K any more
    if (key0 + Tl::BlockN < last)
      start_load<Tl::Threads>(s.k, k.from(key0 + Tl::BlockN), 0, a.head_dim);
    ptx::cp_async_commit();
    multiply_add<Tl::Slice, Tl::BlockN>(out, p, s.v, 0);
  }
#pragma unroll
  for (int m = 0; m < Tl::MTiles; ++m)
    finish<Tl>(s, a, row0, m, sample, head, slice, st[m], out[m]);
}

template <class Tl>
__device__ inline void forward(const ForwardArgs<typename Tl::T>& a) {
  run<Tl>(shared_memory<typename Tl::Shared>(), a, NoBias{});
}

template <class Tl>
__device__ inline void biased(const BiasedForwardArgs<typename Tl::T>& a) {
  run<Tl>(shared_memory<typename Tl::BiasedShared>(), a.plain, a.bias);
}

template <class T> using D48 = ForwardTile<T, 48, 48, 4, 2, 64>;
template <class T> using D64 = ForwardTile<T, 64, 64, 4, 2, 64>;
template <class T> using D80 = ForwardTile<T, 80, 80, 4, 2, 64>;
template <class T> using D128 = ForwardTile<T, 128, 128, 4, 1, 64>;
template <class T> using D160 = ForwardTile<T, 160, 160, 4, 1, 64>;
template <class T> using D512 = ForwardTile<T, 512, 256, 8, 1, 32>;  // 4 row tiles of O fill the registers
template <class T> using Biased48 = ForwardTile<T, 48, 48, 4, 2, 64, true>;
template <class T> using Biased64 = ForwardTile<T, 64, 64, 4, 2, 64, true>;
template <class T> using Biased80 = ForwardTile<T, 80, 80, 4, 2, 32, true>;  // 64 keys would spill

}  // namespace attention

using namespace attention;
EXPORT(attention_forward_sm80_d48_bf16, D48<bf16>, ForwardArgs<bf16>, forward<D48<bf16>>)
EXPORT(attention_forward_sm80_d64_bf16, D64<bf16>, ForwardArgs<bf16>, forward<D64<bf16>>)
EXPORT(attention_forward_sm80_d80_bf16, D80<bf16>, ForwardArgs<bf16>, forward<D80<bf16>>)
EXPORT(attention_forward_sm80_d128_bf16, D128<bf16>, ForwardArgs<bf16>, forward<D128<bf16>>)
EXPORT(attention_forward_sm80_d160_bf16, D160<bf16>, ForwardArgs<bf16>, forward<D160<bf16>>)
EXPORT(attention_forward_sm80_d512_bf16, D512<bf16>, ForwardArgs<bf16>, forward<D512<bf16>>)
EXPORT(attention_forward_sm80_d48_f16, D48<f16>, ForwardArgs<f16>, forward<D48<f16>>)
EXPORT(attention_forward_sm80_d64_f16, D64<f16>, ForwardArgs<f16>, forward<D64<f16>>)
EXPORT(attention_forward_sm80_d80_f16, D80<f16>, ForwardArgs<f16>, forward<D80<f16>>)
EXPORT(attention_forward_sm80_d128_f16, D128<f16>, ForwardArgs<f16>, forward<D128<f16>>)
EXPORT(attention_forward_sm80_d160_f16, D160<f16>, ForwardArgs<f16>, forward<D160<f16>>)
EXPORT(attention_forward_sm80_d512_f16, D512<f16>, ForwardArgs<f16>, forward<D512<f16>>)
EXPORT(attention_biased_forward_sm80_d48_bf16, Biased48<bf16>, BiasedForwardArgs<bf16>, biased<Biased48<bf16>>)
EXPORT(attention_biased_forward_sm80_d64_bf16, Biased64<bf16>, BiasedForwardArgs<bf16>, biased<Biased64<bf16>>)
EXPORT(attention_biased_forward_sm80_d80_bf16, Biased80<bf16>, BiasedForwardArgs<bf16>, biased<Biased80<bf16>>)
EXPORT(attention_biased_forward_sm80_d48_f16, Biased48<f16>, BiasedForwardArgs<f16>, biased<Biased48<f16>>)
EXPORT(attention_biased_forward_sm80_d64_f16, Biased64<f16>, BiasedForwardArgs<f16>, biased<Biased64<f16>>)
EXPORT(attention_biased_forward_sm80_d80_f16, Biased80<f16>, BiasedForwardArgs<f16>, biased<Biased80<f16>>)
