// Products of small f32 panels in shared memory: what the kernels of any head dimension are made of.
#pragma once
#include "attention/args.cuh"
#include "common/element.cuh"
#include "common/shared.cuh"

namespace attention {

// 64 threads as (8 of ty, 8 of tx). A thread owns rows 4 ty .. 4 ty + 4 of a block and, of a score tile,
// columns tx + 8 j; of a product with values, the four columns 32 g + 4 tx of every group g.
struct Simt {
  static constexpr int Rows = 32;       // of both operands of a score tile
  static constexpr int Chunk = 64;      // head channels in shared memory at a time
  static constexpr int Threads = 64;    // few: small models and the emulator do not fill more
  static constexpr int Own = 4;         // rows and columns of a thread
  static constexpr int Pitch = Chunk + 4;  // floats; 4 mod 32: eight rows read as float4 hit all 32 banks
  static constexpr int TilePitch = Rows + 4;
};

struct Panel { float v[Simt::Rows][Simt::Pitch]; };         // (Rows, Chunk)
struct ScoreTile { float v[Simt::Rows][Simt::TilePitch]; }; // (Rows, Rows)
using Scores = float[Simt::Own][Simt::Own];

__device__ inline int thread_x() { return int(threadIdx.x) % 8; }
__device__ inline int thread_y() { return int(threadIdx.x) / 8; }
__device__ inline int own_row(int i) { return thread_y() * Simt::Own + i; }
__device__ inline int own_column(int j) { return thread_x() + 8 * j; }

// Channels [channel, channel + 64) of up to 32 rows; what does not exist is 0, up to a multiple of 4.
template <class T>
__device__ inline void load_panel(Panel& s, const Rows<const T>& g, int channel, int head_dim) {
  const int c = int(threadIdx.x), width = min(Simt::Chunk, head_dim - channel);
  if (c >= (width + 3) / 4 * 4) return;
  const T* from = g.first + channel + c;
#pragma unroll 8
  for (int r = 0; r < Simt::Rows; ++r)
    s.v[r][c] = r < g.left && c < width ? to_f32(from[r * g.stride]) : 0.0f;
}

// s[i][j] += a[own_row(i)] . b[own_column(j)] over `width` channels.
__device__ inline void add_dots(Scores& s, const Panel& a, const Panel& b, int width) {
#pragma unroll 2
  for (int c = 0; c < width; c += 4) {
    float4 x[Simt::Own], y[Simt::Own];
#pragma unroll
    for (int i = 0; i < Simt::Own; ++i) {
      x[i] = *reinterpret_cast<const float4*>(&a.v[own_row(i)][c]);
      y[i] = *reinterpret_cast<const float4*>(&b.v[own_column(i)][c]);
    }
#pragma unroll
    for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
      for (int j = 0; j < Simt::Own; ++j) {
        s[i][j] += x[i].x * y[j].x;
        s[i][j] += x[i].y * y[j].y;
        s[i][j] += x[i].z * y[j].z;
        s[i][j] += x[i].w * y[j].w;
      }
  }
}

// s = A B^T of 32 rows each, all head channels. A stays in `a` between calls when it fits (`a_loaded`); the
// last chunk of B stays in `b`. Ends with a barrier.
template <class T>
__device__ inline void dots(Scores& s, Panel& a, Panel& b, const Rows<const T>& ga,
                            const Rows<const T>& gb, int head_dim, bool a_loaded) {
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
    for (int j = 0; j < Simt::Own; ++j) s[i][j] = 0.0f;
  for (int channel = 0; channel < head_dim; channel += Simt::Chunk) {
    if (!a_loaded || head_dim > Simt::Chunk) load_panel(a, ga, channel, head_dim);
    load_panel(b, gb, channel, head_dim);
    __syncthreads();
    add_dots(s, a, b, min(Simt::Chunk, head_dim - channel));
    __syncthreads();
  }
}

// A thread's part of (32, Slice): rows own_row(i), columns 32 g + 4 tx + c of the slice.
template <int Slice>
struct Accumulator {
  static constexpr int Groups = Slice / 32;
  float v[Simt::Own][Groups][4];
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
      for (int g = 0; g < Groups; ++g)
#pragma unroll
        for (int c = 0; c < 4; ++c) v[i][g][c] = 0.0f;
  }
};

// acc += P B for the two groups of one chunk, B (32, 64) in `b`; columns at or past `width` are left alone.
template <int Slice>
__device__ inline void add_product(Accumulator<Slice>& acc, const ScoreTile& p, const Panel& b, int chunk,
                                   int width) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = 32 * half + 4 * thread_x(), g = 2 * chunk + half;
    if (column >= width) continue;
#pragma unroll 2
    for (int k = 0; k < Simt::Rows; k += 4) {
      float4 y[4];
#pragma unroll
      for (int kk = 0; kk < 4; ++kk) y[kk] = *reinterpret_cast<const float4*>(&b.v[k + kk][column]);
#pragma unroll
      for (int i = 0; i < Simt::Own; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(&p.v[own_row(i)][k]);
        const float xs[4] = {x.x, x.y, x.z, x.w};
        float(&to)[4] = acc.v[i][g];
#pragma unroll
        for (int kk = 0; kk < 4; ++kk) {
          to[0] += xs[kk] * y[kk].x;
          to[1] += xs[kk] * y[kk].y;
          to[2] += xs[kk] * y[kk].z;
          to[3] += xs[kk] * y[kk].w;
        }
      }
    }
  }
}

// acc += P B[:, slice]; `b` already holds B when the head is one chunk (`b_loaded`). The caller wrote `p`
// before this; a barrier comes first and last.
template <int Slice, class T>
__device__ inline void product(Accumulator<Slice>& acc, const ScoreTile& p, Panel& b,
                               const Rows<const T>& gb, int slice, int head_dim, bool b_loaded) {
#pragma unroll
  for (int chunk = 0; chunk < Slice / Simt::Chunk; ++chunk) {
    const int channel = slice * Slice + chunk * Simt::Chunk;
    if (channel >= head_dim) continue;
    if (!b_loaded || head_dim > Simt::Chunk) load_panel(b, gb, channel, head_dim);
    __syncthreads();
    add_product<Slice>(acc, p, b, chunk, head_dim - channel);
    __syncthreads();
  }
}

__device__ inline void store_tile(ScoreTile& to, const Scores& s) {
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i)
#pragma unroll
    for (int j = 0; j < Simt::Own; ++j) to.v[own_row(i)][own_column(j)] = s[i][j];
}

// out = acc * factor[row], added to the old content where `accumulate`.
template <int Slice, class T>
__device__ inline void store(const Rows<T>& g, const Accumulator<Slice>& acc,
                             const float (&factor)[Simt::Own], int slice, int head_dim, bool accumulate) {
#pragma unroll
  for (int i = 0; i < Simt::Own; ++i) {
    if (own_row(i) >= g.left) continue;
    T* to = g.first + own_row(i) * g.stride;
#pragma unroll
    for (int group = 0; group < Slice / 32; ++group)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = slice * Slice + 32 * group + 4 * thread_x() + c;
        if (column >= head_dim) continue;
        const float old = accumulate ? to_f32(to[column]) : 0.0f;
        to[column] = from_f32<T>(acc.v[i][group][c] * factor[i] + old);
      }
  }
}

}  // namespace attention
