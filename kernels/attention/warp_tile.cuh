// Products of 16-row tiles by one warp on mma.sync; operands in shared memory with rows padded by 16 bytes.
#pragma once
#include "attention/args.cuh"
#include "common/element.cuh"
#include "ptx/convert.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/warp.cuh"

namespace attention {

// (Rows, Depth) of a 16-bit type. A row is an odd number of 16-byte units, so that the eight rows of an
// ldmatrix, and eight rows written by the lanes of an accumulator, fall into different banks.
template <class T, int Rows_, int Depth_>
struct alignas(16) Operand {
  using Element = T;
  static constexpr int Rows = Rows_, Depth = Depth_;
  static_assert(sizeof(T) == 2, "mma.m16n8k16 takes 16-bit operands");
  static_assert(Depth % 16 == 0 && Rows % 8 == 0, "whole k-steps and column tiles");
  T v[Rows][Depth + 8];
};

// Starts the copy of channels [channel, channel + Depth) of rows; what does not exist becomes 0.
template <int Threads, class Op, class T>
__device__ inline void start_load(Op& s, const Rows<const T>& g, int channel, int head_dim) {
  constexpr int Units = Op::Depth / 8, Total = Op::Rows * Units;
#pragma unroll
  for (int i = 0; i < (Total + Threads - 1) / Threads; ++i) {
    const int unit = i * Threads + int(threadIdx.x), row = unit / Units, c = unit % Units * 8;
    if (Total % Threads != 0 && unit >= Total) break;
    const bool valid = row < g.left && channel + c < head_dim;
    ptx::cp_async_16(&s.v[row][c], valid ? g.first + row * g.stride + channel + c : g.first, valid);
  }
}

// Lane positions in an accumulator tile (16, 8): rows q and q + 8, columns 2t and 2t + 1.
__device__ inline int lane_row() { return ptx::lane_id() / 4; }
__device__ inline int lane_column() { return ptx::lane_id() % 4 * 2; }

template <int N>
using Tile = float[N / 8][4];  // (16, N): [column tile][2 * (row q + 8) + column]

template <int N>
__device__ inline void clear(Tile<N>& s) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
}

// s[m] (16, N) = A[row0 + 16m .. row0 + 16m + 16] B^T, B (N, Depth) as stored; M tiles share what is read
// of B.
template <int N, class OpA, class OpB, int M>
__device__ inline void multiply_nt(float (&s)[M][N / 8][4], const OpA& a, int row0, const OpB& b) {
  static_assert(N == OpB::Rows && OpA::Depth == OpB::Depth, "A B^T");
  using T = typename OpA::Element;
  const int lane = ptx::lane_id();
  const int b_row = (lane & 7) + (lane >> 4) * 8, b_column = (lane >> 3 & 1) * 8;
#pragma unroll
  for (int m = 0; m < M; ++m) clear<N>(s[m]);
#pragma unroll
  for (int k = 0; k < OpA::Depth; k += 16) {
    uint32_t ra[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m)
      ptx::ldmatrix_x4(ra[m], &a.v[row0 + 16 * m + (lane & 15)][k + (lane >> 4) * 8]);
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t rb[4];
      ptx::ldmatrix_x4(rb, &b.v[n + b_row][k + b_column]);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        ptx::mma_m16n8k16<T>(s[m][n / 8], ra[m], {rb[0], rb[1]});
        ptx::mma_m16n8k16<T>(s[m][n / 8 + 1], ra[m], {rb[2], rb[3]});
      }
    }
  }
}

// acc[m] (16, N) += P[m] (16, K) B, B (K, columns [column0, column0 + N)) as stored; P packed by `pack`.
template <int N, int K, class OpB, int M>
__device__ inline void multiply_add(float (&acc)[M][N / 8][4], const uint32_t (&p)[M][K / 16][4],
                                    const OpB& b, int column0) {
  static_assert(K == OpB::Rows && N <= OpB::Depth, "P B");
  using T = typename OpB::Element;
  const int lane = ptx::lane_id();
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
#pragma unroll
    for (int n = 0; n < N; n += 16) {
      uint32_t rb[4];
      ptx::ldmatrix_x4_trans(rb, &b.v[16 * k + (lane & 15)][column0 + n + (lane >> 4) * 8]);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        ptx::mma_m16n8k16<T>(acc[m][n / 8], p[m][k], {rb[0], rb[1]});
        ptx::mma_m16n8k16<T>(acc[m][n / 8 + 1], p[m][k], {rb[2], rb[3]});
      }
    }
}

// An accumulator as A operand: columns 16k .. 16k + 15 are the four registers of k-step k. Rounds to T.
template <class T, int N>
__device__ inline void pack(uint32_t (&p)[N / 16][4], const Tile<N>& s) {
#pragma unroll
  for (int k = 0; k < N / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&from)[4] = s[2 * k + i / 2];
      p[k][i] = ptx::pack<T>(from[i % 2 * 2], from[i % 2 * 2 + 1]);
    }
}

// Sixteen rows of a result, acc (16, N) * factor of the row, as T to channels [channel, channel + N) of `g`,
// through the warp's own rows `row0` of `s`; `add`: to the old content, in f32.
template <int N, class Op, class T>
__device__ inline void store_rows(Op& s, int row0, Tile<N>& acc, const float (&factor)[2], const Rows<T>& g,
                                  int channel, int head_dim, bool add) {
#pragma unroll
  for (int n = 0; n < N / 8; ++n)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = lane_row() + 8 * h, c = channel + 8 * n + lane_column();
      float x = acc[n][2 * h] * factor[h], y = acc[n][2 * h + 1] * factor[h];
      if (add && row < g.left && c < head_dim) {
        const float2 old = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(g.first + row * g.stride + c));
        x += old.x, y += old.y;
      }
      *reinterpret_cast<uint32_t*>(&s.v[row0 + row][8 * n + lane_column()]) = ptx::pack<T>(x, y);
    }
  __syncwarp();
  constexpr int Units = N / 8;
#pragma unroll
  for (int i = 0; i < 16 * Units / 32; ++i) {
    const int unit = i * 32 + ptx::lane_id(), row = unit / Units, c = unit % Units * 8;
    if (row < g.left && channel + c < head_dim)
      *reinterpret_cast<uint4*>(g.first + row * g.stride + channel + c) =
          *reinterpret_cast<const uint4*>(&s.v[row0 + row][c]);
  }
}

}  // namespace attention
