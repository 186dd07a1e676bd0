// Barriers with a number: 1 to 15 of a block, each for a count of threads (a multiple of 32).
#pragma once
#include "common/export.cuh"
#ifndef __CUDACC__
#include "emulator/models.h"
#endif

namespace ptx {
#ifdef __CUDACC__
__device__ inline void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Counts as one of the threads and goes on.
__device__ inline void barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
#else
inline void barrier_sync(int id, int threads, int line = __builtin_LINE()) {
  emulator::named_barrier(id, threads, true, line);
}
inline void barrier_arrive(int id, int threads, int line = __builtin_LINE()) {
  emulator::named_barrier(id, threads, false, line);
}
#endif
}  // namespace ptx
