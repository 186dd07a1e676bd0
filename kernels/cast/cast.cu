// cast, any of f32 bf16 f16 to any.   y = x in another element type, to nearest even; dx = dy converted back.
// Work: 1 conversion an element.  Bytes: sizeof(From) + sizeof(To) an element: memory-bound.
// Tile: 256 threads; a thread moves 16 bytes of the narrower type.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; ragged tails and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace cast {

using namespace elementwise;

template <class From, class To>
inline constexpr int Vec = PerAccess<From> > PerAccess<To> ? PerAccess<From> : PerAccess<To>;

template <class From, class To>
using Tile = FlatTile<Vec<From, To>>;

template <class From, class To>
struct Args {
  const From* from;
  To* target;
  Count len;
  Mode mode;  // forward: Overwrite
  int unused;
};

template <class From, class To>
__device__ inline void run(const Args<From, To>& a) {
  for_own<Vec<From, To>>(a.len, aligned(a.from, a.target), [&]<int V>(Count at) {
    write<To, V>(a.target + at, load_once<V>(a.from + at), a.mode);
  });
}

template <class From, class To>
struct Kernel {  // one name without commas, for EXPORT
  using Tile = cast::Tile<From, To>;
  using Args = cast::Args<From, To>;
  static __device__ void run(const Args& a) { cast::run<From, To>(a); }
};

using F32ToF32 = Kernel<float, float>;
using F32ToBf16 = Kernel<float, bf16>;
using F32ToF16 = Kernel<float, f16>;
using Bf16ToF32 = Kernel<bf16, float>;
using Bf16ToBf16 = Kernel<bf16, bf16>;
using Bf16ToF16 = Kernel<bf16, f16>;
using F16ToF32 = Kernel<f16, float>;
using F16ToBf16 = Kernel<f16, bf16>;
using F16ToF16 = Kernel<f16, f16>;

}  // namespace cast

EXPORT(cast_f32_f32, cast::F32ToF32::Tile, cast::F32ToF32::Args, cast::F32ToF32::run)
EXPORT(cast_f32_bf16, cast::F32ToBf16::Tile, cast::F32ToBf16::Args, cast::F32ToBf16::run)
EXPORT(cast_f32_f16, cast::F32ToF16::Tile, cast::F32ToF16::Args, cast::F32ToF16::run)
EXPORT(cast_bf16_f32, cast::Bf16ToF32::Tile, cast::Bf16ToF32::Args, cast::Bf16ToF32::run)
EXPORT(cast_bf16_bf16, cast::Bf16ToBf16::Tile, cast::Bf16ToBf16::Args, cast::Bf16ToBf16::run)
EXPORT(cast_bf16_f16, cast::Bf16ToF16::Tile, cast::Bf16ToF16::Args, cast::Bf16ToF16::run)
EXPORT(cast_f16_f32, cast::F16ToF32::Tile, cast::F16ToF32::Args, cast::F16ToF32::run)
EXPORT(cast_f16_bf16, cast::F16ToBf16::Tile, cast::F16ToBf16::Args, cast::F16ToBf16::run)
EXPORT(cast_f16_f16, cast::F16ToF16::Tile, cast::F16ToF16::Args, cast::F16ToF16::run)
