// Shared by the Hopper kernels: the ring of stages, products of 64-row tiles on wgmma, the staging of a tile.
#pragma once
#include "attention/args.cuh"
#include "common/element.cuh"
#include "ptx/barrier.cuh"
#include "ptx/convert.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/warp.cuh"
#include "ptx/wgmma.cuh"

namespace attention {

constexpr int RowBytes = 128;                // 64 16-bit values: one line of the 128-byte swizzle
constexpr int SubtileBytes = 64 * RowBytes;  // 64 rows: what one warpgroup owns of a 64-column tile

// Position in a ring of shared-memory stages; `phase` is the parity of the next wait.
template <int Stages>
struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Stages) stage = 0, phase ^= 1;
  }
};

// 0, but not before `x` is computed: ptxas sinks work on registers past a barrier of raw instructions, never past a use. No
// sum of exponentials is a negative subnormal.
__device__ __forceinline__ uint32_t zero_after(float x) { return __float_as_uint(x) == 0x80000001u; }

// All lanes of the warp are done with a stage: one arrival a warp, barriers count 4 * Consumers.
__device__ __forceinline__ void release(uint64_t* bar) {
  __syncwarp();
  if (ptx::lane_id() == 0) ptx::mbarrier_arrive(bar);
}

// D (64, BN) = A (64, K) B (BN, K)^T, both K-major in shared memory as chunks of 64 columns: (ARows, 64), (BN, 64).
// Descriptors are built once: one a step costs 75 uniform instructions more in the forward loop.
template <class T, int K, int BN, int ARows = 64>
__device__ __forceinline__ void multiply_nt(float (&d)[BN / 2], const void* a, const void* b) {
  const uint64_t da = ptx::wgmma_descriptor_k(a), db = ptx::wgmma_descriptor_k(b);
  ptx::reg_fence(d);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
    ptx::wgmma_ss<T, BN>(d, da + (k / 4 * ARows * RowBytes + k % 4 * 32) / 16,
                         db + (k / 4 * BN * RowBytes + k % 4 * 32) / 16, k > 0);
  ptx::wgmma_commit();
}

// D (64, BN) += P (64, K) B (K, BN): P packed in registers, B MN-major as chunks of 64 columns, (K, 64), the last
// of which may be used in part.
// No commit.
template <class T, int K, int BN>
__device__ __forceinline__ void multiply_add(float (&d)[BN / 2], uint32_t (&p)[K / 16][4], const void* b) {
  const uint64_t db = ptx::wgmma_descriptor_mn(b, K * RowBytes);
  ptx::reg_fence(d);
  ptx::reg_fence(p);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
    ptx::wgmma_rs<T, BN, 1>(d, p[k], db + k * 16 * RowBytes / 16, true);
}

// The same, P (64, K) K-major in shared memory as chunks of 64 columns, (64, 64).
template <class T, int K, int BN>
__device__ __forceinline__ void multiply_add(float (&d)[BN / 2], const void* p, const void* b) {
  const uint64_t da = ptx::wgmma_descriptor_k(p), db = ptx::wgmma_descriptor_mn(b, K * RowBytes);
  ptx::reg_fence(d);
  ptx::wgmma_fence();
#pragma unroll
  for (int k = 0; k < K / 16; ++k)
    ptx::wgmma_ss<T, BN, 0, 1>(d, da + (k / 4 * SubtileBytes + k % 4 * 32) / 16, db + k * 16 * RowBytes / 16, true);
}

// Accumulator (64, 2R) as A operand: columns 16k .. 16k + 15 are the four registers of k-step k.
template <class T, int R>
__device__ __forceinline__ void pack_tile(uint32_t (&p)[R / 8][4], const float (&s)[R]) {
#pragma unroll
  for (int i = 0; i < R / 2; ++i) p[i / 4][i % 4] = ptx::pack<T>(s[2 * i], s[2 * i + 1]);
}

// The thread's first row of its warpgroup's 64; its second is 8 below. Its first column of every 8.
__device__ __forceinline__ int group_row() { return (ptx::warp_id() & 3) * 16 + ptx::lane_id() / 4; }
__device__ __forceinline__ int group_column() { return ptx::lane_id() % 4 * 2; }

// One warpgroup writes its accumulator (64, 2R) * factor of the row, up to 64 columns, into a swizzled staging tile,
// from its 16-byte column `first` on; the sixteen rows of a stmatrix fall into eight 16-byte columns twice: no bank conflicts.
template <class T, int R>
__device__ __forceinline__ void stage_tile(T* to, const float (&d)[R], const float (&factor)[2],
                                           int first = 0) {
  static_assert(R % 8 == 0 && R <= 32, "pairs of 8 columns; one line of the swizzle");
  const int lane = ptx::lane_id(), row = (ptx::warp_id() & 3) * 16 + (lane & 15);
  char* line = reinterpret_cast<char*>(to) + row * RowBytes;
#pragma unroll
  for (int k = 0; k < R / 8; ++k) {
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
      r[i] = ptx::pack<T>(d[8 * k + 2 * i] * factor[i & 1], d[8 * k + 2 * i + 1] * factor[i & 1]);
    ptx::stmatrix_x4(line + (((first + 2 * k + (lane >> 4)) ^ (row & 7)) << 4), r);
  }
}

}  // namespace attention
