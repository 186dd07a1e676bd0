// affine, f32 bf16 f16.   y = scale x + shift; dx = scale dy.   Any shape, read as flat.
// Work: 2 flop an element.  Bytes: 2 accesses of sizeof(T) (3 when a gradient is added): memory-bound.
// Tile: 256 threads, 16 bytes a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; ragged tails and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace affine {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;  // x, or dy
  T* target;      // y, or dx
  Count len;
  float scale, shift;  // backward: shift is 0
  Mode mode;           // forward: Overwrite
  int unused;
};

template <class T>
__device__ inline void run(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, aligned(a.from, a.target), [&]<int Vec>(Count at) {
    Lane<Vec> y = load_once<Vec>(a.from + at);
    for (int k = 0; k < Vec; ++k) y.v[k] = a.scale * y.v[k] + a.shift;
    write<T, Vec>(a.target + at, y, a.mode);
  });
}

}  // namespace affine

EXPORT(affine_f32, elementwise::Tile<float>, affine::Args<float>, affine::run<float>)
EXPORT(affine_bf16, elementwise::Tile<bf16>, affine::Args<bf16>, affine::run<bf16>)
EXPORT(affine_f16, elementwise::Tile<f16>, affine::Args<f16>, affine::run<f16>)
