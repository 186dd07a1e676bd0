// padded copy, bf16 and f16.   out[i, j] = x[i, j] for j < From, 0 up to To: factors whose rank is no multiple of 8 get rows of 16 bytes.
// x: (Rows, From), out: (Rows, To).   Work: none.  Bytes: 2 Rows (From + To).
// SDXL rank 4: h of 4096 rows, up of 1280: 130 KB, 0.1 us of traffic: launch-bound (2 us).
// Tile: 256 threads, one element each.   Measured: see NOTES.md.   Determinism: bitwise.   Requires: nothing, tail masked.
#include "common/element.cuh"

namespace lora {

template <class T>
struct PadArgs {
  const T* x;
  T* out;
  long long len;  // Rows * To
  int from, to;
};

template <class T>
__device__ inline void pad(const PadArgs<T>& a) {
  const long long i = (long long)blockIdx.x * FlatTile<1>::Threads + threadIdx.x;
  if (i >= a.len) return;
  const long long row = i / a.to;
  const int col = int(i - row * a.to);
  a.out[i] = col < a.from ? a.x[row * a.from + col] : T{0};
}

}  // namespace lora

EXPORT(lora_pad_bf16, FlatTile<1>, lora::PadArgs<bf16>, lora::pad<bf16>)
EXPORT(lora_pad_f16, FlatTile<1>, lora::PadArgs<f16>, lora::pad<f16>)
