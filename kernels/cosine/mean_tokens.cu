// means over tokens, f32 bf16 f16.   y[n, c] = sum_l x[n, l, c] / L; dx[n, l, c] = dy[n, c] / L.   x: (N, L, C), y: (N, C).
// Work: 1 flop an element.  Bytes: x once and y, forward and backward (x twice when added), of sizeof(T).
// 77 tokens, C=2048, N=4, bf16: 1.3 MB -> 0.3 us at 4.3 TB/s: a launch, and the latency of 10 loads in a row.
// Tile: forward row_sums.cuh (a block sums 512 bytes of columns over all tokens of a sample); backward 16 bytes a thread.
// Determinism: bitwise.   Requires: nothing; C not a multiple of 16 bytes and odd addresses go element by element.
#include "common/exact.cuh"
#include "common/row_sums.cuh"

namespace mean_tokens {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;          // x, or dy
  T* target;              // y, or dx
  Count len;              // of one sample of x
  unsigned tokens, cols;
  Mode mode;
  int unused;
};

// Grid: columns, samples.
template <class T>
__device__ inline void forward(const Args<T>& a) {
  const Count first = Count(blockIdx.y) * a.tokens;
  const auto sum = row_sums::sum<T>({a.from, a.cols}, first, first + a.tokens);
  if (!sum.inside) return;
  const Lane<1> mean = {{exact::div(sum.value, float(a.tokens))}};
  write<T, 1>(a.target + Count(blockIdx.y) * a.cols + sum.col, mean, a.mode);
}

// Grid: elements of a sample, samples; dy stays in L1.
template <class T>
__device__ inline void backward(const Args<T>& a) {
  const bool whole = a.cols % PerAccess<T> == 0 && aligned(a.from, a.target);
  for_own<PerAccess<T>>(a.len, whole, [&]<int Vec>(Count at) {
    Lane<Vec> g = load<Vec>(a.from + Count(blockIdx.y) * a.cols + cell<Vec>(at, a.cols).col);
    for (int k = 0; k < Vec; ++k) g.v[k] = exact::div(g.v[k], float(a.tokens));
    write<T, Vec>(a.target + blockIdx.y * a.len + at, g, a.mode);
  });
}

}  // namespace mean_tokens

EXPORT(mean_tokens_forward_f32, row_sums::Tile<float>, mean_tokens::Args<float>, mean_tokens::forward<float>)
EXPORT(mean_tokens_forward_bf16, row_sums::Tile<bf16>, mean_tokens::Args<bf16>, mean_tokens::forward<bf16>)
EXPORT(mean_tokens_forward_f16, row_sums::Tile<f16>, mean_tokens::Args<f16>, mean_tokens::forward<f16>)
EXPORT(mean_tokens_backward_f32, elementwise::Tile<float>, mean_tokens::Args<float>, mean_tokens::backward<float>)
EXPORT(mean_tokens_backward_bf16, elementwise::Tile<bf16>, mean_tokens::Args<bf16>, mean_tokens::backward<bf16>)
EXPORT(mean_tokens_backward_f16, elementwise::Tile<f16>, mean_tokens::Args<f16>, mean_tokens::backward<f16>)
