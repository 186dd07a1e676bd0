// products, f32 bf16 f16.   target = a b: y = a b; da = b dy, db = a dy, each a launch of its own.   All flat, one shape.
// Work: 1 flop an element.  Bytes: 3 (4 when added) accesses of sizeof(T).
// DINOv2-g at 224, B=8, bf16: SwiGLU [8, 257, 4096] 51 MB -> 12 us at 4.3 TB/s: memory-bound.
// Tile: 256 threads, 16 bytes a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; ragged tails and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace multiply {

using namespace elementwise;

template <class T>
struct Args {
  const T* a;
  const T* b;  // the other factor; backward: dy
  T* target;   // y, or a gradient
  Count len;
  Mode mode;
  int unused;
};

template <class T>
__device__ inline void product(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.a, a.b, a.target), [&]<int Vec>(Count at) {
    Lane<Vec> y = load_once<Vec>(a.a + at);
    const Lane<Vec> b = load_once<Vec>(a.b + at);
    for (int k = 0; k < Vec; ++k) y.v[k] *= b.v[k];
    write<T, Vec>(a.target + at, y, a.mode);
  });
}

}  // namespace multiply

EXPORT(multiply_f32, elementwise::Tile<float>, multiply::Args<float>, multiply::product<float>)
EXPORT(multiply_bf16, elementwise::Tile<bf16>, multiply::Args<bf16>, multiply::product<bf16>)
EXPORT(multiply_f16, elementwise::Tile<f16>, multiply::Args<f16>, multiply::product<f16>)
