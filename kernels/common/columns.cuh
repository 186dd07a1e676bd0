// Walks the rows of a row-major matrix: a thread keeps `Vec` adjacent columns and takes every step-th row.
#pragma once
#include "common/block_sum.cuh"
#include "common/shared.cuh"
#include "common/vector.cuh"

namespace columns {

constexpr int kThreads = 256;

// How one launch cuts `samples` matrices of `rows` x `c`; kernels/columns.rs computes it from the shape.
// grid: (row blocks, column tiles, samples)
struct Walk {
  int c;           // columns of the matrix
  int tile_vecs;   // vectors of columns of one block, at most kThreads
  int rows;        // rows of one sample
  int block_rows;  // rows of one block
};

// The storage type and the elements of one access.
template <class T_>
struct Wide {
  using T = T_;
  static constexpr int Vec = 16 / int(sizeof(T));
};
template <class T_>
struct Narrow {
  using T = T_;
  static constexpr int Vec = 1;
};

// Two sums of every column of every thread row of a block.
template <int Vec>
struct Sums {
  float a[kThreads * Vec];  // (thread rows, tile columns)
  float b[kThreads * Vec];  // (thread rows, tile columns)
};

template <int SharedBytes_, int BlocksPerSm_>
struct Tile {
  static constexpr int BlockRows = 1, BlockCols = 1, Stages = 1;  // run time: struct Walk
  static constexpr int Threads = kThreads, SharedBytes = SharedBytes_, BlocksPerSm = BlocksPerSm_;
};

// What one thread covers.
template <int Vec>
struct Own {
  int column;          // first of its Vec columns
  int row, end, step;  // its rows in its sample
  bool some;           // whether it has any

  __device__ explicit Own(const Walk& w) {
    const int tid = int(threadIdx.x), r = tid / w.tile_vecs;
    step = kThreads / w.tile_vecs;
    column = (int(blockIdx.y) * w.tile_vecs + tid % w.tile_vecs) * Vec;
    const int first = int(blockIdx.x) * w.block_rows;
    row = first + r;
    end = min(first + w.block_rows, w.rows);
    some = r < step && column < w.c && row < end;
  }
};

// Vec parameters, which may start at any element of a flat buffer: one access where they are aligned.
template <int Vec, class T>
__device__ inline Lane<Vec> load_parameters(const T* p) {
  if (reinterpret_cast<size_t>(p) % (Vec * sizeof(T)) == 0) return load<Vec>(p);
  Lane<Vec> x;
#pragma unroll
  for (int i = 0; i < Vec; ++i) x.v[i] = to_f32(p[i]);
  return x;
}

// Where sample blockIdx.z starts.
__device__ inline size_t sample_offset(const Walk& w) {
  return size_t(blockIdx.z) * size_t(w.rows) * size_t(w.c);
}

// use(row, load(row)) for the rows of a thread in ascending order; the loads of `Batch` rows start together.
template <int Batch, int Vec, class Load, class Use>
__device__ inline void for_rows(const Own<Vec>& own, Load load, Use use) {
  int row = own.row;
  for (; row + (Batch - 1) * own.step < own.end; row += Batch * own.step) {
    decltype(load(row)) held[Batch];
#pragma unroll
    for (int i = 0; i < Batch; ++i) held[i] = load(row + i * own.step);
#pragma unroll
    for (int i = 0; i < Batch; ++i) use(row + i * own.step, held[i]);
  }
  for (; row < own.end; row += own.step) use(row, load(row));
}

// merge(column, slots) once for every column of the block, spread over all threads: slots.at(r) is the place of
// thread row r in Sums, slots.count(r) how many rows it added.
struct Slots {
  int column, tile_column, tile_c, used, thread_rows, block_rows;
  __device__ int at(int r) const { return r * tile_c + tile_column; }
  __device__ int count(int r) const { return (block_rows - r + thread_rows - 1) / thread_rows; }
};

template <int Vec, class Merge>
__device__ inline void for_columns(const Walk& w, Merge merge) {
  Slots s;
  s.thread_rows = kThreads / w.tile_vecs;
  s.block_rows = min(w.block_rows, w.rows - int(blockIdx.x) * w.block_rows);
  s.used = min(s.thread_rows, s.block_rows);
  s.tile_c = w.tile_vecs * Vec;
  for (s.tile_column = int(threadIdx.x); s.tile_column < s.tile_c; s.tile_column += kThreads) {
    s.column = int(blockIdx.y) * s.tile_c + s.tile_column;
    if (s.column < w.c) merge(s);
  }
}

// The row of this block in `partial: (samples, row blocks, 2, c)`.
__device__ inline float* partial_row(float* partial, const Walk& w) {
  return partial + (size_t(blockIdx.z) * gridDim.x + blockIdx.x) * 2 * size_t(w.c);
}

// Plain sums of both halves over the thread rows of a block, into its partial row.
template <int Vec>
__device__ inline void write_sums(const Sums<Vec>& s, const Walk& w, float* partial) {
  float* out = partial_row(partial, w);
  for_columns<Vec>(w, [&](const Slots& slot) {
    float a = 0.0f, b = 0.0f;
    for (int r = 0; r < slot.used; ++r) {
      a += s.a[slot.at(r)];
      b += s.b[slot.at(r)];
    }
    out[slot.column] = a;
    out[w.c + slot.column] = b;
  });
}

// Adds the partial rows of all blocks: out[k][column] (+)= sum over parts of partial[part][k][column].
template <class T>
struct TotalArgs {
  const float* partial;  // (parts, 2, c)
  T* out[2];             // (c) each; null where not wanted
  int parts, c;
  int accumulate[2];
};

constexpr int kTotalColumns = 32;  // one line of 128 bytes of a partial row
constexpr int kTotalLanes = kThreads / kTotalColumns;
struct TotalShared {
  double sum[kTotalLanes][kTotalColumns];
};
using TotalTile = Tile<int(sizeof(TotalShared)), 4>;

// grid: (column tiles, 2, 1)
template <class T>
__device__ inline void total(const TotalArgs<T>& a) {
  const int half = int(blockIdx.y), lane = int(threadIdx.x) / kTotalColumns;
  const int in_tile = int(threadIdx.x) % kTotalColumns;
  const int column = int(blockIdx.x) * kTotalColumns + in_tile;
  T* out = half == 0 ? a.out[0] : a.out[1];
  if (!out) return;  // the whole block
  auto& s = shared_memory<TotalShared>();
  double sum = 0.0;
  if (column < a.c) {
    const float* p = a.partial + size_t(half) * a.c + column;
#pragma unroll 4
    for (int part = lane; part < a.parts; part += kTotalLanes) sum += p[size_t(part) * 2 * a.c];
  }
  s.sum[lane][in_tile] = sum;
  __syncthreads();
  if (lane != 0 || column >= a.c) return;
  for (int i = 1; i < kTotalLanes; ++i) sum += s.sum[i][in_tile];
  const bool add = (half == 0 ? a.accumulate[0] : a.accumulate[1]) != 0;
  out[column] = from_f32<T>(add ? float(sum + to_f32(out[column])) : float(sum));
}

}  // namespace columns
