// GEGLU, f32 bf16 f16.   [a, g] = x, y = a gelu(g); da = gelu(g) dy, dg = a gelu'(g) dy.   x: (R, 2D), y: (R, D).
// Work: 30 instructions an output forward, 45 backward.  Bytes: 3 R D sizeof(T) forward, 5 backward (7 when added).
// SDXL 32x32, B=2: R=2048, D=5120, bf16: 63 MB -> 15 us at 4.3 TB/s forward, 24 us backward: memory-bound.
// Tile: 256 threads, 16 bytes of the output a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; D not a multiple of 16 bytes and odd addresses go element by element.
#include "common/elementwise.cuh"
#include "common/math.cuh"

namespace geglu {

using namespace elementwise;

template <class T>
struct Args {
  const T* x;   // (R, 2D)
  const T* dy;  // (R, D), backward only
  T* target;    // y (R, D), or dx (R, 2D)
  Count len;    // R D
  unsigned d;
  Mode mode;
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.d % PerAccess<T> == 0 && aligned(a.x, a.dy, a.target);
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.d);
    const T* x = a.x + p.row * a.d * 2 + p.col;
    Lane<Vec> y = load_once<Vec>(x);
    const Lane<Vec> g = load_once<Vec>(x + a.d);
    for (int k = 0; k < Vec; ++k) y.v[k] *= math::gelu(g.v[k]);
    store<Vec>(a.target + at, y);
  });
}

template <class T>
__device__ inline void backward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.d);
    const Count from = p.row * a.d * 2 + p.col;
    Lane<Vec> d_value = load_once<Vec>(a.dy + at);
    const Lane<Vec> value = load_once<Vec>(a.x + from);
    Lane<Vec> gate = load_once<Vec>(a.x + from + a.d);
    for (int k = 0; k < Vec; ++k) {
      const math::Gelu f = math::gelu_with_slope(gate.v[k]);
      gate.v[k] = value.v[k] * f.slope * d_value.v[k];
      d_value.v[k] *= f.value;
    }
    write<T, Vec>(a.target + from, d_value, a.mode);
    write<T, Vec>(a.target + from + a.d, gate, a.mode);
  });
}

}  // namespace geglu

EXPORT(geglu_forward_f32, elementwise::Tile<float>, geglu::Args<float>, geglu::forward<float>)
EXPORT(geglu_forward_bf16, elementwise::Tile<bf16>, geglu::Args<bf16>, geglu::forward<bf16>)
EXPORT(geglu_forward_f16, elementwise::Tile<f16>, geglu::Args<f16>, geglu::forward<f16>)
EXPORT(geglu_backward_f32, elementwise::Tile<float>, geglu::Args<float>, geglu::backward<float>)
EXPORT(geglu_backward_bf16, elementwise::Tile<bf16>, geglu::Args<bf16>, geglu::backward<bf16>)
EXPORT(geglu_backward_f16, elementwise::Tile<f16>, geglu::Args<f16>, geglu::backward<f16>)
