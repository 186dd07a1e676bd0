// the last step of a fused layer on chips without its own kernel, f32, bf16, f16, forward only.
// y = f(h) (+ r), h and y (M,N); or y = h[:, :N/2] gelu(h[:, N/2:]) (+ r), y (M,N/2). h: x w^T + b, rounded to the storage type.
// Work: 15-30 instructions an element.  Bytes: sizeof(T) (|h| + |y| (+ |r|)).
// SDXL GEGLU [4096, 5120]: 63 MB -> 15 us at 4.3 TB/s: memory-bound; linear_fused_sm90.cu does without it.
// Tile: 256 threads, one element each.   Measured: see NOTES.md.   Determinism: bitwise.   Requires: nothing, tail masked.
#include "common/element.cuh"
#include "common/math.cuh"

namespace linear {

template <class T>
struct FinishArgs {
  const T* h;
  const T* residual;  // or null
  T* y;
  long long len;  // of y
  int columns;    // of y
  int gated;
  int activation;  // as activation.cu
  int unused;
};

template <class T>
__device__ inline void finish_layer(const FinishArgs<T>& a) {
  constexpr int Gelu = 1, QuickGelu = 2, Relu = 3;
  const long long i = (long long)blockIdx.x * FlatTile<1>::Threads + threadIdx.x;
  if (i >= a.len) return;
  float v;
  if (a.gated) {
    const long long row = i / a.columns, at = row * 2 * a.columns + (i - row * a.columns);
    v = to_f32(a.h[at]) * math::gelu(to_f32(a.h[at + a.columns]));
  } else {
    const float x = to_f32(a.h[i]);
    if (a.activation == Gelu) v = math::gelu(x);
    else if (a.activation == Relu) v = fmaxf(x, 0.0f);
    else v = x * math::sigmoid(a.activation == QuickGelu ? 1.702f * x : x);
  }
  if (a.residual) v += to_f32(a.residual[i]);
  a.y[i] = from_f32<T>(v);
}

}  // namespace linear

EXPORT(linear_finish_f32, FlatTile<1>, linear::FinishArgs<float>, linear::finish_layer<float>)
EXPORT(linear_finish_bf16, FlatTile<1>, linear::FinishArgs<bf16>, linear::finish_layer<bf16>)
EXPORT(linear_finish_f16, FlatTile<1>, linear::FinishArgs<f16>, linear::finish_layer<f16>)
