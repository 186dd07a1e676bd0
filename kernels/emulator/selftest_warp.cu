// Warp functions, cp.async, ldmatrix and mma.sync, atomics and polls, whole and with planted
// mistakes; compiled for the host only.
#include "common/element.cuh"
#include "common/shared.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/global.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"
#include "ptx/warp.cuh"

namespace selftest {

struct WarpArgs {
  const float* in;
  float* out;
  unsigned* flags;
  int n, offset;  // offset: planted, in elements
};

template <int Threads_, int SharedBytes_ = 0>
struct WarpTile {
  static constexpr int Threads = Threads_, BlockRows = 1, BlockCols = Threads, Stages = 1;
  static constexpr int SharedBytes = SharedBytes_, BlocksPerSm = 1;
};

// Twelve results a lane; tests/emulator/main.cpp computes them the plain way.
__device__ inline void warp_functions(const WarpArgs& a) {
  constexpr unsigned All = 0xFFFFFFFFu;
  const int lane = int(threadIdx.x) % 32;
  const float x = a.in[threadIdx.x];
  const unsigned u = unsigned(lane * 2654435761u);
  float* out = a.out + threadIdx.x * 12;
  out[11] = float(__activemask() == All);
  out[0] = __shfl_sync(All, x, 5);
  out[1] = __shfl_sync(All, x, lane + 3, 8);
  out[2] = __shfl_up_sync(All, x, 2, 16);
  out[3] = __shfl_down_sync(All, x, 3);
  out[4] = __shfl_xor_sync(All, x, 6);
  out[5] = float(__popc(__ballot_sync(All, x > 0.5f)));
  out[6] = float(__any_sync(All, lane == 7) + 2 * __all_sync(All, lane < 32));
  out[6] += float(4 * __all_sync(All, lane < 31));
  out[7] = float(__reduce_add_sync(All, u) >> 8);
  out[8] = float(__reduce_max_sync(All, int(u)) >> 8);
  const unsigned half = lane < 16 ? 0xFFFFu : 0xFFFF0000u;  // two groups at their own pace
  out[9] = __shfl_xor_sync(half, x, 1);
  if (lane < 16) out[9] = __shfl_xor_sync(half, out[9], 2);
  out[10] = float(__shfl_sync(All, (unsigned long long)(u) << 20, 9) >> 32);
}

struct CopyShared {
  alignas(16) float v[2][128];
};

// out = in in slabs of 128 through two shared buffers.
template <int Left>
__device__ void copies(const WarpArgs& a) {
  auto& s = shared_memory<CopyShared>();
  const int t = int(threadIdx.x);
  auto load = [&](int k) {
    if (t < 32) ptx::cp_async_16(&s.v[k % 2][t * 4], a.in + k * 128 + t * 4 + a.offset);
    ptx::cp_async_commit();
  };
  load(0);
  for (int k = 0; k < a.n; ++k) {
    if (k + 1 < a.n) load(k + 1);
    else ptx::cp_async_commit();
    ptx::cp_async_wait<Left>();
    __syncthreads();
    a.out[k * 128 + t] = s.v[k % 2][127 - t];
    __syncthreads();
  }
}

__device__ inline void divergent_shuffle(const WarpArgs& a) {
  float x = a.in[threadIdx.x];
  if (threadIdx.x < 7)
    x = __shfl_xor_sync(0xFFFFFFFFu, x, 1);
  else
    x = __shfl_down_sync(0xFFFFFFFFu, x, 1);
  a.out[threadIdx.x] = x;
}

// Part of a warp waits for the warp, the rest for the block.
__device__ inline void lost_lanes(const WarpArgs& a) {
  if (threadIdx.x % 32 < 7)
    __syncwarp();
  else
    __syncthreads();
  a.out[threadIdx.x] = 0.0f;
}

__device__ inline void misaligned(const WarpArgs& a) {
  const float4 v = *reinterpret_cast<const float4*>(a.in + threadIdx.x * 4 + a.offset);
  *reinterpret_cast<float4*>(a.out + threadIdx.x * 4) = v;
}

__device__ inline void wild(const WarpArgs& a) {
  a.out[threadIdx.x] = a.in[(long long)a.n << 36];
}

// Block i adds 1 to what block i - 1 left, in the order of a flag of each; n = 0: nobody sets them.
__device__ inline void chain(const WarpArgs& a) {
  const unsigned i = blockIdx.x;
  if (threadIdx.x == 0) {
    if (i > 0)
      while (ptx::load_acquire(a.flags + i - 1) == 0) {
      }
    a.out[i] = i > 0 ? a.out[i - 1] + 1.0f : 0.0f;
    ptx::store_release(a.flags + i, unsigned(a.n));
  }
}

// Every block writes the same place.
__device__ inline void block_race(const WarpArgs& a) {
  if (threadIdx.x == 0) a.out[0] = a.in[0];
}

__device__ inline void atomics(const WarpArgs& a) {
  atomicAdd(a.flags, 1u);
  atomicMax(a.flags + 1, blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(a.out, 1.0f);
  if (atomicInc(a.flags + 2, unsigned(a.n) - 1) == 0) a.out[1] = 1.0f;
}

struct MmaShared {
  alignas(16) unsigned short a[16][16], b[16][8];
};

// out (16, 8) = A B, A: in (16, 16), B: in + 256 (16, 8); A by ldmatrix, B by its transpose.
template <class T>
__device__ void mma(const WarpArgs& x) {
  auto& s = shared_memory<MmaShared>();
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) s.a[i / 16][i % 16] = from_f32<T>(x.in[i]).bits;
  for (int i = lane; i < 128; i += 32) s.b[i / 8][i % 8] = from_f32<T>(x.in[256 + i]).bits;
  __syncwarp();
  uint32_t a[4], b[2];
  ptx::ldmatrix_x4(a, &s.a[lane % 16][lane / 16 * 8]);
  ptx::ldmatrix_x2_trans(b, &s.b[lane % 16][0]);
  float d[4] = {};
  ptx::mma_m16n8k16<T>(d, a, b);
  for (int i = 0; i < 4; ++i) x.out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// The first 8 of K in tf32.
__device__ inline void mma_tf32(const WarpArgs& x) {
  const int q = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  uint32_t a[4], b[2];
  for (int i = 0; i < 4; ++i) a[i] = ptx::to_tf32(x.in[(q + i % 2 * 8) * 16 + t + i / 2 * 4]);
  for (int i = 0; i < 2; ++i) b[i] = ptx::to_tf32(x.in[256 + (t + i * 4) * 8 + q]);
  float d[4] = {};
  ptx::mma_m16n8k8_tf32(d, a, b);
  for (int i = 0; i < 4; ++i) x.out[(q + i / 2 * 8) * 8 + t * 2 + i % 2] = d[i];
}

using CopyTile = WarpTile<128, sizeof(CopyShared)>;
using MmaTile = WarpTile<32, sizeof(MmaShared)>;

}  // namespace selftest

EXPORT(warp_functions, selftest::WarpTile<64>, selftest::WarpArgs, selftest::warp_functions)
EXPORT(warp_copies, selftest::CopyTile, selftest::WarpArgs, selftest::copies<1>)
EXPORT(warp_copies_weak_wait, selftest::CopyTile, selftest::WarpArgs, selftest::copies<2>)
EXPORT(warp_divergent_shuffle, selftest::WarpTile<32>, selftest::WarpArgs, selftest::divergent_shuffle)
EXPORT(warp_lost_lanes, selftest::WarpTile<64>, selftest::WarpArgs, selftest::lost_lanes)
EXPORT(warp_misaligned, selftest::WarpTile<32>, selftest::WarpArgs, selftest::misaligned)
EXPORT(warp_wild, selftest::WarpTile<32>, selftest::WarpArgs, selftest::wild)
EXPORT(warp_chain, selftest::WarpTile<64>, selftest::WarpArgs, selftest::chain)
EXPORT(warp_block_race, selftest::WarpTile<64>, selftest::WarpArgs, selftest::block_race)
EXPORT(warp_atomics, selftest::WarpTile<64>, selftest::WarpArgs, selftest::atomics)
EXPORT(warp_mma_bf16, selftest::MmaTile, selftest::WarpArgs, selftest::mma<bf16>)
EXPORT(warp_mma_f16, selftest::MmaTile, selftest::WarpArgs, selftest::mma<f16>)
EXPORT(warp_mma_tf32, selftest::WarpTile<32>, selftest::WarpArgs, selftest::mma_tf32)
