// concat, f32 bf16 f16.   y[r] = [a[r], b[r]]; da, db = the two parts of dy.   a: (R, A), b: (R, B), y: (R, A+B).
// Work: none.  Bytes: 2 R (A+B) sizeof(T) (3 where a gradient is added): memory-bound.
// SDXL 32x32, B=2, 1280+1280 bf16: 21 MB -> 4.9 us at 4.3 TB/s.
// Tile: 256 threads, 16 bytes of y or dy a thread.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: nothing; A or B not a multiple of 16 bytes and odd addresses go element by element.
#include "common/elementwise.cuh"

namespace concat {

using namespace elementwise;

template <class T>
struct Args {
  T* part[2];       // a, b; or da, db
  T* joined;        // y, or dy
  Count len;        // R (A+B)
  unsigned cols[2]; // A, B
  Mode mode[2];     // backward only
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return (a.cols[0] | a.cols[1]) % PerAccess<T> == 0 && aligned(a.part[0], a.part[1], a.joined);
}

// The element of a part that lies at `at` of the joined rows, and which part.
struct Source {
  bool second;
  Count at;
};
template <class T, int Vec>
__device__ inline Source source(const Args<T>& a, Count at) {
  const Cell p = cell<Vec>(at, a.cols[0] + a.cols[1]);
  if (p.col < a.cols[0]) return {false, p.row * a.cols[0] + p.col};
  return {true, p.row * a.cols[1] + (p.col - a.cols[0])};
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Source s = source<T, Vec>(a, at);
    store<Vec>(a.joined + at, load_once<Vec>((s.second ? a.part[1] : a.part[0]) + s.at));
  });
}

template <class T>
__device__ inline void backward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Source s = source<T, Vec>(a, at);
    const Mode mode = s.second ? a.mode[1] : a.mode[0];
    if (mode == Mode::Skip) return;
    write<T, Vec>((s.second ? a.part[1] : a.part[0]) + s.at, load_once<Vec>(a.joined + at), mode);
  });
}

}  // namespace concat

EXPORT(concat_forward_f32, elementwise::Tile<float>, concat::Args<float>, concat::forward<float>)
EXPORT(concat_forward_bf16, elementwise::Tile<bf16>, concat::Args<bf16>, concat::forward<bf16>)
EXPORT(concat_forward_f16, elementwise::Tile<f16>, concat::Args<f16>, concat::forward<f16>)
EXPORT(concat_backward_f32, elementwise::Tile<float>, concat::Args<float>, concat::backward<float>)
EXPORT(concat_backward_bf16, elementwise::Tile<bf16>, concat::Args<bf16>, concat::backward<bf16>)
EXPORT(concat_backward_f16, elementwise::Tile<f16>, concat::Args<f16>, concat::backward<f16>)
