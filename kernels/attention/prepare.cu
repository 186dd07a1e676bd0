// attention backward, before and after the main kernels.   O, dO: (N, Lq, H, D).
// prepare: delta = rowsum(dO o O) and padded statistics.  sum: dK, dV = partial sums in index order.
// bias_total: the gradients of a bias from the sums of every query.
// Work: 2*N*H*Lq*D flop.  Bytes: 2*N*H*Lq*D elements + 8*N*H*pad(Lq).
//   SDXL 64x64, H=10, D=64, bf16: 10.5 MB -> 2.5 us at 4.3 TB/s: bandwidth-bound.
//   Sum: 8*splits*N*H*pad(Lk)*D bytes read; 77 keys, H=10, 13 splits: 8.5 MB -> 2 us.
// Tile: 32 rows, 8 threads a row of `Vec` elements a step; sums through shared memory.
// Measured: see NOTES.md.   Determinism: bitwise.   Requires: D % 8 == 0 for the _vec8 kernels.
#include "attention/args.cuh"
#include "common/shared.cuh"
#include "common/vector.cuh"

namespace attention {

template <class T>
struct PrepareArgs {
  const T *out, *d_out;
  const float* lse;    // (N, Lq, H), natural logarithm
  float *lse2, *delta; // (N, H, stat_len): lse in powers of two, +inf past Lq; delta, 0 past Lq
  int len_q, stat_len, heads, head_dim;
};

struct PrepareShared { float partial[32][9]; };  // 9: lanes of one column fall into different banks

template <class T_, int Vec_>
struct PrepareTile {
  using T = T_;
  static constexpr int Vec = Vec_, Rows = 32, Lanes = 8;
  static constexpr int BlockRows = Rows, BlockCols = Vec * Lanes, Stages = 1, Threads = Rows * Lanes;
  static constexpr int SharedBytes = sizeof(PrepareShared), BlocksPerSm = 4;
};

// Block (32 of the stat_len * H rows of a sample, head fastest: whole tokens are read in one piece; sample).
template <class Tile>
__device__ inline void prepare(const PrepareArgs<typename Tile::T>& a) {
  auto& s = shared_memory<PrepareShared>();
  const int lane = int(threadIdx.x) % Tile::Lanes, row = int(threadIdx.x) / Tile::Lanes;
  const long long at = (long long)blockIdx.x * Tile::Rows + row;
  const int head = int(at % a.heads), query = int(at / a.heads), sample = int(blockIdx.y);
  float sum = 0.0f;
  const long long token = ((long long)sample * a.len_q + query) * a.heads + head;
  if (query < a.len_q)
    for (int c = lane * Tile::Vec; c < a.head_dim; c += Tile::Lanes * Tile::Vec) {
      const auto x = load<Tile::Vec>(a.out + token * a.head_dim + c);
      const auto y = load<Tile::Vec>(a.d_out + token * a.head_dim + c);
#pragma unroll
      for (int i = 0; i < Tile::Vec; ++i) sum += x.v[i] * y.v[i];
    }
  s.partial[row][lane] = sum;
  __syncthreads();
  if (lane || query >= a.stat_len) return;
  float total = 0.0f;
  for (int i = 0; i < Tile::Lanes; ++i) total += s.partial[row][i];
  const long long to = ((long long)sample * a.heads + head) * a.stat_len + query;
  a.delta[to] = total;
  a.lse2[to] = query < a.len_q ? a.lse[token] * kLog2e : INFINITY;
}

template <class T>
struct SumArgs {
  const float* partial;  // (splits, N, H, 2, pad_k, D): dK, dV
  T *dk, *dv;            // (N, Lk, H, D); null: not wanted
  int len_k, pad_k, heads, head_dim, samples, splits;
  int add_k, add_v;  // 1: added to the old content
};

template <class T_>
struct SumTile {
  using T = T_;
  static constexpr int BlockRows = 1, BlockCols = 256, Stages = 1, Threads = 256;
  static constexpr int SharedBytes = 0, BlocksPerSm = 8;
};

// One element of dK and dV a thread; block (256 of the Lk * H * D elements of a sample, sample).
template <class Tile>
__device__ inline void sum(const SumArgs<typename Tile::T>& a) {
  using T = typename Tile::T;
  const long long i = (long long)blockIdx.x * Tile::Threads + threadIdx.x;
  const int c = int(i % a.head_dim), head = int(i / a.head_dim % a.heads), sample = int(blockIdx.y);
  const long long key = i / a.head_dim / a.heads;
  if (key >= a.len_k) return;
  const long long tensor = (long long)a.pad_k * a.head_dim;
  const float* g = a.partial + ((long long)sample * a.heads + head) * 2 * tensor + key * a.head_dim + c;
  float k = 0.0f, v = 0.0f;
  for (int z = 0; z < a.splits; ++z, g += 2 * tensor * a.heads * a.samples) k += g[0], v += g[tensor];
  const long long to = (long long)sample * a.len_k * a.heads * a.head_dim + i;
  if (a.dk) a.dk[to] = from_f32<T>(a.add_k ? k + to_f32(a.dk[to]) : k);
  if (a.dv) a.dv[to] = from_f32<T>(a.add_v ? v + to_f32(a.dv[to]) : v);
}

template <class T>
struct BinArgs {
  const float* bins;   // (N, L, H, bins) of the biased q kernel
  T *first, *second;   // gradients of rel_h, rel_w, or of the table and null; null: not wanted
  long long queries;   // N L H
  int heads, bin_count, split;  // split: bins of `first`
  int decomposed, add_first, add_second;
};

// Decomposed: one value of one query a thread. Offsets: one of one head, summed over its queries in order.
template <class T>
__device__ inline void bias_total(const BinArgs<T>& a) {
  const long long i = (long long)blockIdx.x * FlatTile<1>::Threads + threadIdx.x;
  const long long row = i / a.bin_count;
  const int bin = int(i - row * a.bin_count);
  if (row >= (a.decomposed ? a.queries : a.heads)) return;
  float sum = 0.0f;
  if (a.decomposed) sum = a.bins[i];
  else
    for (long long q = row; q < a.queries; q += a.heads) sum += a.bins[q * a.bin_count + bin];
  const bool second = bin >= a.split;
  T* to = second ? a.second : a.first;
  if (!to) return;
  const int width = second ? a.bin_count - a.split : a.split;
  to += row * width + (second ? bin - a.split : bin);
  *to = from_f32<T>((second ? a.add_second : a.add_first) ? sum + to_f32(*to) : sum);
}

using F32Vec8 = PrepareTile<float, 8>;
using Bf16Vec8 = PrepareTile<bf16, 8>;
using F16Vec8 = PrepareTile<f16, 8>;
using F32Vec1 = PrepareTile<float, 1>;
using Bf16Vec1 = PrepareTile<bf16, 1>;
using F16Vec1 = PrepareTile<f16, 1>;

}  // namespace attention

using namespace attention;
EXPORT(attention_prepare_vec8_f32, F32Vec8, PrepareArgs<float>, prepare<F32Vec8>)
EXPORT(attention_prepare_vec8_bf16, Bf16Vec8, PrepareArgs<bf16>, prepare<Bf16Vec8>)
EXPORT(attention_prepare_vec8_f16, F16Vec8, PrepareArgs<f16>, prepare<F16Vec8>)
EXPORT(attention_prepare_vec1_f32, F32Vec1, PrepareArgs<float>, prepare<F32Vec1>)
EXPORT(attention_prepare_vec1_bf16, Bf16Vec1, PrepareArgs<bf16>, prepare<Bf16Vec1>)
EXPORT(attention_prepare_vec1_f16, F16Vec1, PrepareArgs<f16>, prepare<F16Vec1>)
EXPORT(attention_sum_bf16, SumTile<bf16>, SumArgs<bf16>, sum<SumTile<bf16>>)
EXPORT(attention_sum_f16, SumTile<f16>, SumArgs<f16>, sum<SumTile<f16>>)
EXPORT(attention_bias_total_f32, FlatTile<1>, BinArgs<float>, bias_total<float>)
EXPORT(attention_bias_total_bf16, FlatTile<1>, BinArgs<bf16>, bias_total<bf16>)
EXPORT(attention_bias_total_f16, FlatTile<1>, BinArgs<f16>, bias_total<f16>)
