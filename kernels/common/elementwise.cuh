// Elementwise kernels: a thread owns 16 bytes of the result; ragged ends and odd addresses go one by one.
#pragma once
#include "common/element.cuh"
#include "common/vector.cuh"

namespace elementwise {

using Count = unsigned long long;

// Elements of one 16-byte access.
template <class T>
inline constexpr int PerAccess = 16 / int(sizeof(T));

template <class T>
using Tile = FlatTile<PerAccess<T>>;

// How a gradient is written; elementwise.rs holds the same numbers.
enum class Mode : int { Skip = 0, Overwrite = 1, Accumulate = 2 };

// Whether 16-byte accesses are allowed at all of these (null counts as allowed: it is not touched).
template <class... P>
__device__ inline bool aligned(const P*... p) {
  return ((reinterpret_cast<Count>(p) | ...) & 15) == 0;
}

// body.operator()<Vec>(first) for the Vec elements of this thread where all of them are there and
// `whole` says they may be accessed together, else body.operator()<1>(i) for each that is there.
template <int Vec, class Body>
__device__ inline void for_own(Count len, bool whole, const Body& body) {
  const Count first = (Count(blockIdx.x) * FlatTile<Vec>::Threads + threadIdx.x) * Vec;
  if (whole && first + Vec <= len) {
    body.template operator()<Vec>(first);
    return;
  }
#pragma unroll 1  // the rare way: small code before fast code
  for (int k = 0; k < Vec; ++k)
    if (first + k < len) body.template operator()<1>(first + k);
}

struct Cell {
  Count row;
  unsigned col;
};

// Where element `at` lies in rows of `cols`. Pieces of Vec are counted with 32 bits: 64 GiB of 16-byte
// pieces, and a division of 20 instructions instead of 70.
template <int Vec>
__device__ inline Cell cell(Count at, unsigned cols) {
  if constexpr (Vec == 1) {
    const Count row = at / cols;
    return {row, unsigned(at - row * cols)};
  } else {
    const unsigned piece = unsigned(at / Vec), row = piece / (cols / Vec);
    return {row, (piece - row * (cols / Vec)) * Vec};
  }
}

// Writes or adds a gradient; rounds once.
template <class T, int Vec>
__device__ inline void write(T* target, Lane<Vec> g, Mode mode) {
  if (mode == Mode::Skip) return;
  if (mode == Mode::Accumulate) {
    const Lane<Vec> old = load<Vec>(target);
    for (int k = 0; k < Vec; ++k) g.v[k] += old.v[k];
  }
  store<Vec>(target, g);
}

}  // namespace elementwise
