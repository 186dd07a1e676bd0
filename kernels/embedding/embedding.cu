// rows of tables, f32 bf16 f16.   y[n, l] = table[ids[n, l]] + positions[l];   picked: y[n] = x[n, rows[n]].
// ids: (N, L) i32, table: (V, C), positions: (P, C), added: (A, C) of ids from V on, or none, y: (N, L, C);
// x: (N, L, C), rows: (N) i32.
// Work: 1 flop an element.  Bytes: 3 N L C sizeof(T); gradient of the table: V C written once.
// CLIP-bigG, N=2, L=77, C=1280: 1.2 MB: launch-bound.   Tile: 256 threads, 16 bytes a thread.   Measured: see NOTES.md.
// Determinism: bitwise: the first token with an id sums all tokens with it, in order; no atomics, no sorting.
// Requires: ids inside the table: one outside gives a row of NaN (a kernel cannot report it), and no gradient.
#include "common/elementwise.cuh"

namespace embedding {

using namespace elementwise;

template <class T>
struct Args {
  const int* ids;       // (tokens); of picked: (N)
  const T* table;       // (V, C); backward: dy (tokens, C); of picked: x, or dy (N, C)
  const T* positions;   // (P, C)
  const T* added;       // (A, C), forward only
  T* target;            // y, d table, d added, d positions; of picked: y, dx
  Count len;            // of what the grid covers in x
  unsigned tokens, length, vocabulary, cols;  // N L, L, V (of picked: L), C
  Mode mode;            // backward only
  unsigned more;        // forward: A; gradient of a table: id of its first row
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.cols % PerAccess<T> == 0 && aligned(a.table, a.positions, a.target, a.added);
}

template <int Vec>
__device__ inline Lane<Vec> all(float value) {
  Lane<Vec> x;
  for (int k = 0; k < Vec; ++k) x.v[k] = value;
  return x;
}

__device__ inline float nan() { return __uint_as_float(0x7fffffffu); }

template <int Vec>
__device__ inline void add_to(Lane<Vec>& sum, const Lane<Vec>& x) {
  for (int k = 0; k < Vec; ++k) sum.v[k] += x.v[k];
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.cols);
    const unsigned id = unsigned(a.ids[p.row]);
    Lane<Vec> y = all<Vec>(nan());
    const unsigned extra = id - a.vocabulary;  // wraps for ids of the table
    if (id < a.vocabulary || extra < a.more) {
      y = load<Vec>((extra < a.more ? a.added + Count(extra) * a.cols : a.table + Count(id) * a.cols) + p.col);
      add_to<Vec>(y, load<Vec>(a.positions + Count(unsigned(p.row) % a.length) * a.cols + p.col));
    }
    store<Vec>(a.target + at, y);
  });
}

// Grid: columns, tokens. Writes only rows of ids that occur; the host zeroes the rest of an overwritten table.
template <class T>
__device__ inline void backward_table(const Args<T>& a) {
  const unsigned own = blockIdx.y, id = unsigned(a.ids[own]), row = id - a.more;
  if (row >= a.vocabulary) return;
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count col) {
    Lane<Vec> sum = {};
    for (unsigned t = 0; t < a.tokens; ++t) {
      if (unsigned(a.ids[t]) != id) continue;
      if (t < own) return;  // that token sums them
      add_to<Vec>(sum, load<Vec>(a.table + Count(t) * a.cols + col));
    }
    write<T, Vec>(a.target + Count(row) * a.cols + col, sum, a.mode);
  });
}

// Grid: positions and columns. Positions past L have gradient 0.
template <class T>
__device__ inline void backward_positions(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.cols);
    if (p.row >= a.length && a.mode == Mode::Accumulate) return;
    Lane<Vec> sum = {};
    for (Count t = p.row; p.row < a.length && t < a.tokens; t += a.length)
      add_to<Vec>(sum, load<Vec>(a.table + t * a.cols + p.col));
    write<T, Vec>(a.target + at, sum, a.mode);
  });
}

template <class T>
__device__ inline void pick(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.cols);
    const unsigned row = unsigned(a.ids[p.row]);
    Lane<Vec> y = all<Vec>(nan());
    if (row < a.length) y = load_once<Vec>(a.table + (p.row * a.length + row) * a.cols + p.col);
    store<Vec>(a.target + at, y);
  });
}

// Grid: all of dx.
template <class T>
__device__ inline void backward_pick(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, a.cols);
    const unsigned sample = unsigned(p.row) / a.length, place = unsigned(p.row) % a.length;
    const bool picked = unsigned(a.ids[sample]) == place;
    if (!picked && a.mode == Mode::Accumulate) return;
    Lane<Vec> g = {};
    if (picked) g = load_once<Vec>(a.table + Count(sample) * a.cols + p.col);
    write<T, Vec>(a.target + at, g, a.mode);
  });
}

}  // namespace embedding

EXPORT(embedding_f32, elementwise::Tile<float>, embedding::Args<float>, embedding::forward<float>)
EXPORT(embedding_bf16, elementwise::Tile<bf16>, embedding::Args<bf16>, embedding::forward<bf16>)
EXPORT(embedding_f16, elementwise::Tile<f16>, embedding::Args<f16>, embedding::forward<f16>)
EXPORT(embedding_table_f32, elementwise::Tile<float>, embedding::Args<float>, embedding::backward_table<float>)
EXPORT(embedding_table_bf16, elementwise::Tile<bf16>, embedding::Args<bf16>, embedding::backward_table<bf16>)
EXPORT(embedding_table_f16, elementwise::Tile<f16>, embedding::Args<f16>, embedding::backward_table<f16>)
EXPORT(embedding_positions_f32, elementwise::Tile<float>, embedding::Args<float>, embedding::backward_positions<float>)
EXPORT(embedding_positions_bf16, elementwise::Tile<bf16>, embedding::Args<bf16>, embedding::backward_positions<bf16>)
EXPORT(embedding_positions_f16, elementwise::Tile<f16>, embedding::Args<f16>, embedding::backward_positions<f16>)
EXPORT(gather_rows_f32, elementwise::Tile<float>, embedding::Args<float>, embedding::pick<float>)
EXPORT(gather_rows_bf16, elementwise::Tile<bf16>, embedding::Args<bf16>, embedding::pick<bf16>)
EXPORT(gather_rows_f16, elementwise::Tile<f16>, embedding::Args<f16>, embedding::pick<f16>)
EXPORT(gather_rows_backward_f32, elementwise::Tile<float>, embedding::Args<float>, embedding::backward_pick<float>)
EXPORT(gather_rows_backward_bf16, elementwise::Tile<bf16>, embedding::Args<bf16>, embedding::backward_pick<bf16>)
EXPORT(gather_rows_backward_f16, elementwise::Tile<f16>, embedding::Args<f16>, embedding::backward_pick<f16>)
