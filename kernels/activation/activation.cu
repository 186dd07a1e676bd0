// activations, f32 bf16 f16.   forward: y = f(x); backward: dx = f'(x) dy.   x, y, dx, dy: any shape, read as flat.
// Work: 15 (SiLU) to 30 (GELU) instructions an element.  Bytes: forward 2, backward 3 (4 when added) accesses of sizeof(T).
// SDXL time embedding [2, 1280]: launch-bound; a [2, 128, 128, 320] bf16 map: 42 MB -> 9.8 us at 4.3 TB/s: memory-bound.
// Tile: 256 threads, 16 bytes a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; ragged tails and odd addresses go element by element.
#include "common/elementwise.cuh"
#include "common/math.cuh"

namespace activation {

using namespace elementwise;

enum class Kind : int { Silu = 0, Gelu = 1, QuickGelu = 2, Relu = 3, Tanh = 4, Elu = 5, Sigmoid = 6 };  // as cuda.rs

template <class T>
struct Args {
  const T* x;
  const T* dy;  // backward only
  T* target;    // y, or dx
  Count len;
  Kind kind;
  Mode mode;
};

constexpr float kQuick = 1.702f;  // the factor of OpenAI's CLIP

struct Silu {
  static __device__ float value(float x) { return x * math::sigmoid(x); }
  static __device__ float slope(float x) { return math::swish_slope(x, 1.0f); }
};
struct Gelu {
  static __device__ float value(float x) { return math::gelu(x); }
  static __device__ float slope(float x) { return math::gelu_with_slope(x).slope; }
};
struct QuickGelu {
  static __device__ float value(float x) { return x * math::sigmoid(kQuick * x); }
  static __device__ float slope(float x) { return math::swish_slope(x, kQuick); }
};
struct Relu {
  static __device__ float value(float x) { return fmaxf(x, 0.0f); }
  static __device__ float slope(float x) { return x > 0.0f ? 1.0f : 0.0f; }
};
struct Tanh {
  static __device__ float value(float x) { return tanhf(x); }
  static __device__ float slope(float x) { return 1.0f - tanhf(x) * tanhf(x); }
};
struct Elu {
  static __device__ float value(float x) { return x > 0.0f ? x : expm1f(x); }
  static __device__ float slope(float x) { return expf(fminf(x, 0.0f)); }
};
struct Sigmoid {  // 1 - sigmoid(x) would lose the digits of a slope far above 0
  static __device__ float value(float x) { return math::sigmoid(x); }
  static __device__ float slope(float x) { return math::sigmoid(x) * math::sigmoid(-x); }
};

template <class T, class F>
__device__ inline void map(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.x, a.target), [&]<int Vec>(Count at) {
    Lane<Vec> y = load_once<Vec>(a.x + at);
    for (int k = 0; k < Vec; ++k) y.v[k] = F::value(y.v[k]);
    store<Vec>(a.target + at, y);
  });
}

template <class T, class F>
__device__ inline void pull_back(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.x, a.dy, a.target), [&]<int Vec>(Count at) {
    const Lane<Vec> x = load_once<Vec>(a.x + at);
    Lane<Vec> g = load_once<Vec>(a.dy + at);
    for (int k = 0; k < Vec; ++k) g.v[k] *= F::slope(x.v[k]);
    write<T, Vec>(a.target + at, g, a.mode);
  });
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  switch (a.kind) {  // the same branch for the whole grid
    case Kind::Silu: return map<T, Silu>(a);
    case Kind::Gelu: return map<T, Gelu>(a);
    case Kind::QuickGelu: return map<T, QuickGelu>(a);
    case Kind::Relu: return map<T, Relu>(a);
    case Kind::Tanh: return map<T, Tanh>(a);
    case Kind::Elu: return map<T, Elu>(a);
    case Kind::Sigmoid: return map<T, Sigmoid>(a);
  }
}

template <class T>
__device__ inline void backward(const Args<T>& a) {
  switch (a.kind) {
    case Kind::Silu: return pull_back<T, Silu>(a);
    case Kind::Gelu: return pull_back<T, Gelu>(a);
    case Kind::QuickGelu: return pull_back<T, QuickGelu>(a);
    case Kind::Relu: return pull_back<T, Relu>(a);
    case Kind::Tanh: return pull_back<T, Tanh>(a);
    case Kind::Elu: return pull_back<T, Elu>(a);
    case Kind::Sigmoid: return pull_back<T, Sigmoid>(a);
  }
}

}  // namespace activation

EXPORT(activation_forward_f32, elementwise::Tile<float>, activation::Args<float>, activation::forward<float>)
EXPORT(activation_forward_bf16, elementwise::Tile<bf16>, activation::Args<bf16>, activation::forward<bf16>)
EXPORT(activation_forward_f16, elementwise::Tile<f16>, activation::Args<f16>, activation::forward<f16>)
EXPORT(activation_backward_f32, elementwise::Tile<float>, activation::Args<float>, activation::backward<float>)
EXPORT(activation_backward_bf16, elementwise::Tile<bf16>, activation::Args<bf16>, activation::backward<bf16>)
EXPORT(activation_backward_f16, elementwise::Tile<f16>, activation::Args<f16>, activation::backward<f16>)
