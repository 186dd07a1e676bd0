// products with a factor a channel, f32 bf16 f16.   y[r, c] = x[r, c] s[c]; dx = s dy; ds[c] = sum_r x[r, c] dy[r, c].
// Work: 1 flop an element, ds 2.  Bytes: x and y once (dx: three accesses when added), ds x and dy once, of sizeof(T).
// LayerScale of DINOv2-L at 224, B=8, bf16: [8, 257, 1024] 8.4 MB -> 2 us at 4.3 TB/s: a launch, then memory.
// Tile: 256 threads, 16 bytes a thread; sums: row_sums.cuh, 256 rows a block, then one thread a column.
// Determinism: bitwise: parts are added in order, no atomics.   Requires: nothing; C not a multiple of 16 bytes and odd
// addresses go element by element.
#include "common/columns.cuh"
#include "common/row_sums.cuh"

namespace multiply_channels {

using namespace elementwise;

template <class T>
struct Args {
  const T* from;    // x, or dy
  const T* factor;  // s: (C)
  T* target;        // y, or dx
  Count len;
  unsigned cols;
  Mode mode;
};

template <class T>
struct SumArgs {
  const T* x;
  const T* dy;
  float* partial;      // (gridDim.y, C)
  unsigned rows, cols;
  unsigned part_rows;  // a block sums
  unsigned unused;
};

// The factors stay in L1; a parameter may start at any element.
template <class T>
__device__ inline void product(const Args<T>& a) {
  const bool whole = a.cols % PerAccess<T> == 0 && aligned(a.from, a.target);
  for_own<PerAccess<T>>(a.len, whole, [&]<int Vec>(Count at) {
    Lane<Vec> y = load_once<Vec>(a.from + at);
    const Lane<Vec> s = columns::load_parameters<Vec>(a.factor + cell<Vec>(at, a.cols).col);
    for (int k = 0; k < Vec; ++k) y.v[k] *= s.v[k];
    write<T, Vec>(a.target + at, y, a.mode);
  });
}

// Grid: columns, parts of part_rows rows.
template <class T>
__device__ inline void sums(const SumArgs<T>& a) {
  const row_sums::Matrix<T> x = {a.x, a.cols}, dy = {a.dy, a.cols};
  const bool whole = a.cols % row_sums::Tile<T>::Vec == 0 && aligned(a.x, a.dy);
  const unsigned first = blockIdx.y * a.part_rows, end = first + a.part_rows;
  const auto sum = row_sums::sum_of<T>(a.cols, first, end < a.rows ? end : a.rows, [&](Count row, unsigned col) {
    auto v = row_sums::columns(x, row, col, whole);
    const auto g = row_sums::columns(dy, row, col, whole);
    for (int k = 0; k < row_sums::Tile<T>::Vec; ++k) v.v[k] *= g.v[k];
    return v;
  });
  if (sum.inside) a.partial[Count(blockIdx.y) * a.cols + sum.col] = sum.value;
}

}  // namespace multiply_channels

EXPORT(multiply_channels_f32, elementwise::Tile<float>, multiply_channels::Args<float>, multiply_channels::product<float>)
EXPORT(multiply_channels_bf16, elementwise::Tile<bf16>, multiply_channels::Args<bf16>, multiply_channels::product<bf16>)
EXPORT(multiply_channels_f16, elementwise::Tile<f16>, multiply_channels::Args<f16>, multiply_channels::product<f16>)
EXPORT(multiply_channel_sums_f32, row_sums::Tile<float>, multiply_channels::SumArgs<float>, multiply_channels::sums<float>)
EXPORT(multiply_channel_sums_bf16, row_sums::Tile<bf16>, multiply_channels::SumArgs<bf16>, multiply_channels::sums<bf16>)
EXPORT(multiply_channel_sums_f16, row_sums::Tile<f16>, multiply_channels::SumArgs<f16>, multiply_channels::sums<f16>)
EXPORT(multiply_channel_total_f32, FlatTile<1>, row_sums::TotalArgs<float>, row_sums::total<float>)
EXPORT(multiply_channel_total_bf16, FlatTile<1>, row_sums::TotalArgs<bf16>, row_sums::total<bf16>)
EXPORT(multiply_channel_total_f16, FlatTile<1>, row_sums::TotalArgs<f16>, row_sums::total<f16>)
