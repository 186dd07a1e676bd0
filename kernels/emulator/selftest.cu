// Kernels that test the emulator itself; compiled for the host only.
#include "common/shared.cuh"

namespace selftest {

struct Args {
  const float* in;
  float* out;
  int len;      // of in and out, a multiple of Threads
  int offset;   // planted: where `overrun` writes
};

struct Tile {
  static constexpr int Threads = 64, BlockRows = 1, BlockCols = 64, Stages = 1;
  static constexpr int SharedBytes = Threads * 4, BlocksPerSm = 1;
};

struct Shared { float v[Tile::Threads]; };

// out = in reversed within each block, through shared memory.
template <bool Synced>
__device__ void reverse(const Args& a) {
  auto& s = shared_memory<Shared>();
  const int at = int(blockIdx.x) * Tile::Threads + int(threadIdx.x);
  s.v[threadIdx.x] = a.in[at];
  if (Synced) __syncthreads();
  a.out[at] = s.v[Tile::Threads - 1 - threadIdx.x];
}

// Half of the threads wait at another barrier.
__device__ void diverge(const Args& a) {
  if (threadIdx.x % 2) {
    __syncthreads();
  } else {
    a.out[threadIdx.x] = 1.0f;
    __syncthreads();
  }
}

// Writes one element at `offset`, inside or outside the allocation.
__device__ void overrun(const Args& a) {
  if (threadIdx.x == 0 && blockIdx.x == 0) a.out[a.offset] = 1.0f;
}

// Writes past the block's shared memory.
__device__ void shared_overrun(const Args& a) {
  shared_memory<Shared>().v[threadIdx.x + unsigned(a.offset)] = 1.0f;
}

}  // namespace selftest

EXPORT(selftest_reverse, selftest::Tile, selftest::Args, selftest::reverse<true>)
EXPORT(selftest_unsynced, selftest::Tile, selftest::Args, selftest::reverse<false>)
EXPORT(selftest_diverge, selftest::Tile, selftest::Args, selftest::diverge)
EXPORT(selftest_overrun, selftest::Tile, selftest::Args, selftest::overrun)
EXPORT(selftest_shared_overrun, selftest::Tile, selftest::Args, selftest::shared_overrun)
