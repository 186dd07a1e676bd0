// Idea: from a consumer's accumulators to global memory: ranges of a sum are joined in order, then every warp writes its
// 16 rows chunk by chunk through its own staging: stmatrix, TMA store, two chunks in flight, no block barrier.
//
// Of a Problem it asks: parts(), counters(); alpha(); bias(unit), which gives pairs of columns; has_residual(); load_residual(unit, row, col, staging,
// barrier) and store(unit, row, col, staging), both of a box of 16 rows and ChunkN columns of the tile.
#pragma once
#include "gemm/tile_sm90.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/global.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"

namespace gemm {

// A thread's accumulators: rows lane / 4 and + 8 of the warp's 16, columns 8 j + 2 (lane % 4) and + 1.
template <class Tile>
struct Sums {
  float v[Tile::MmaM][Tile::BlockN / 2];
};

// The bias of a tile's columns; len 0: none.
template <class T>
struct TileBias {
  const T* at;
  int len;

  // Of columns `c` and `c` + 1.
  __device__ inline float2 pair(int c) const {
    return c < len ? ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(at + c)) : make_float2(0, 0);
  }
};

// A piece of the result with its own counter, and which of its ranges this is.
struct Piece {
  int index, split, splits;
};

// The ranges of a tile are consecutive units: all but the last write their sums, the last adds them to its own in range
// order and goes on to the epilogue. A unit waits only for units of lower number, so it ends whatever the number of
// resident blocks; it leaves its counter at 0. parts: (pieces, splits - 1, MmaM, BlockN / 8, 128, 4) f32: 512 bytes a warp and access.
template <class Tile>
__device__ inline bool join_ranges(Sums<Tile>& c, float* parts, unsigned* counters, const Piece& p,
                                   int consumer, int t) {
  constexpr int Len = Tile::BlockN / 2, RangeLen = Tile::MmaM * Len * kWarpgroup;
  float* at = parts + (long long)p.index * (p.splits - 1) * RangeLen + t * 4;
  if (p.split < p.splits - 1) {
    at += (long long)p.split * RangeLen;
#pragma unroll
    for (int m = 0; m < Tile::MmaM; ++m)
#pragma unroll
      for (int i = 0; i < Len; i += 4)
        *reinterpret_cast<float4*>(at + (m * Len + i) * kWarpgroup) =
            make_float4(c.v[m][i], c.v[m][i + 1], c.v[m][i + 2], c.v[m][i + 3]);
    __threadfence();
    ptx::barrier_sync(1 + consumer, kWarpgroup);
    if (t == 0) ptx::atomic_add_acq_rel(&counters[p.index], 1);
    return false;
  }
  if (t == 0) {
    while (ptx::load_acquire(&counters[p.index]) != unsigned(p.splits - 1)) {
    }
    counters[p.index] = 0;  // as the next launch expects it
  }
  ptx::barrier_sync(1 + consumer, kWarpgroup);
#pragma unroll 1
  for (int r = 0; r < p.splits - 1; ++r, at += RangeLen)
#pragma unroll
    for (int m = 0; m < Tile::MmaM; ++m)
#pragma unroll
      for (int i = 0; i < Len; i += 4) {
        const float4 v = ptx::load_l2_v4(at + (m * Len + i) * kWarpgroup);
        c.v[m][i] += v.x, c.v[m][i + 1] += v.y, c.v[m][i + 2] += v.z, c.v[m][i + 3] += v.w;
      }
  return true;
}

// Where a 16-byte piece of a staging chunk (16, ChunkN) lies: TMA's swizzle.
template <class Tile>
__device__ inline int staging_offset(int row, int piece) {
  const int at = row * Tile::ChunkN * 2 + piece * 16;
  return Tile::ChunkSwizzle == 128 ? at ^ ((at >> 7 & 7) << 4) : at ^ ((at >> 7 & 3) << 4);
}

// One warp's way out; `seq` counts its chunks.
template <class Tile, class P>
struct Store {
  using T = typename P::Element;
  const P& problem;
  Ring<Tile>& s;
  int lane, warp;  // warp of both consumers
  int row0;        // the consumer's first row of the tile
  uint32_t seq;

  __device__ inline int row_of(int i) const { return row0 + i * 64 + (warp & 3) * kStoreRows; }

  // One lane: starts the copy of a chunk's residual into the staging it will leave by.
  __device__ inline void fetch_residual(const Unit& w, int row, int chunk, uint32_t n) {
    uint64_t* bar = &s.residual[warp][n & 1];
    ptx::mbarrier_expect_tx(bar, Tile::ChunkBytes);
    problem.load_residual(w, row, chunk * Tile::ChunkN, s.out[warp][n & 1], bar);
  }

  // Before a tile's main loop (or its join): its first residual.
  __device__ inline void begin(const Unit& w) {
    if (!problem.has_residual() || !ptx::elect_one()) return;
    ptx::tma_store_wait_read<0>();
    fetch_residual(w, row_of(0), 0, seq);
  }

  // Waits until chunk (i, q)'s staging is free, and full of its residual where there is one.
  __device__ inline void enter(const Unit& w, int i, int q) {
    if (problem.has_residual()) {
      if (ptx::elect_one()) {
        ptx::tma_store_wait_read<0>();  // the other buffer is free again: prefetch the next chunk's residual
        if (q + 1 < Tile::Chunks) fetch_residual(w, row_of(i), q + 1, seq + 1);
        else if (i + 1 < Tile::MmaM) fetch_residual(w, row_of(i + 1), 0, seq + 1);
      }
      ptx::mbarrier_wait(&s.residual[warp][seq & 1], seq >> 1 & 1);
    } else {
      if (ptx::elect_one()) ptx::tma_store_wait_read<1>();  // the store before last has left this buffer
      __syncwarp();
    }
  }

  // Columns 16 p .. 16 p + 16 of a chunk: factor, bias, residual, rounding, staging.
  template <class Bias>
  __device__ inline void stage(const float* sums, const Bias& bias, int col, unsigned char* staging, int p) {
    uint32_t packed[4], old[4];
    const int row = (lane & 7) + (lane & 8),
              piece = 2 * p + (lane >> 4);  // the row this lane names to stmatrix
    unsigned char* at = staging + staging_offset<Tile>(row, piece);
    if (problem.has_residual()) ptx::ldmatrix_x4(old, at);  // the same fragment as the accumulators'
#pragma unroll
    for (int h = 0; h < 2; ++h) {  // 8 columns each
      const float2 b = bias.pair(col + h * 8 + (lane & 3) * 2);
      const float* x = sums + 4 * h;
      float v[4] = {fmaf(problem.alpha(), x[0], b.x), fmaf(problem.alpha(), x[1], b.y),
                    fmaf(problem.alpha(), x[2], b.x), fmaf(problem.alpha(), x[3], b.y)};
      if (problem.has_residual()) {
        const float2 low = ptx::unpack<T>(old[2 * h]), high = ptx::unpack<T>(old[2 * h + 1]);
        v[0] += low.x, v[1] += low.y, v[2] += high.x, v[3] += high.y;
      }
      packed[2 * h] = ptx::pack<T>(v[0], v[1]);
      packed[2 * h + 1] = ptx::pack<T>(v[2], v[3]);
    }
    ptx::stmatrix_x4(at, packed);
  }

  // The warp's rows of the tile.
  __device__ inline void tile(const Sums<Tile>& c, const Unit& w) {
    const auto bias = problem.bias(w);
#pragma unroll
    for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
      for (int q = 0; q < Tile::Chunks; ++q, ++seq) {
        enter(w, i, q);
        unsigned char* staging = s.out[warp][seq & 1];
#pragma unroll
        for (int p = 0; p < Tile::ChunkN / 16; ++p) {
          const int col = q * Tile::ChunkN + 16 * p;
          stage(&c.v[i][col / 2], bias, col, staging, p);
        }
        ptx::fence_proxy_async();
        __syncwarp();
        if (ptx::elect_one()) {
          problem.store(w, row_of(i), q * Tile::ChunkN, staging);
          ptx::tma_store_commit();
        }
      }
  }
};

}  // namespace gemm
