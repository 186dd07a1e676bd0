// cp.async: 16 (or 4, 8) bytes from global to shared memory, waited for in groups of one thread.
#pragma once
#include "ptx/shared.cuh"

namespace ptx {
#ifdef __CUDACC__
// Zeros where not valid; `global` is then not read. Past L1 (.cg).
__device__ inline void cp_async_16(Smem shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared.address),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
template <int Bytes>
__device__ inline void cp_async_small(Smem shared, const void* global, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8, "cp.async.ca copies 4 or 8 bytes here");
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared.address),
               "l"(global), "n"(Bytes), "r"(valid ? Bytes : 0)
               : "memory");
}
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All but the last N committed groups of this thread have arrived.
template <int N>
__device__ inline void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#else
inline void cp_async_16(Smem shared, const void* global, bool valid = true) {
  emulator::cp_async(shared.address, global, 16, valid ? 16 : 0);
}
template <int Bytes>
inline void cp_async_small(Smem shared, const void* global, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8, "cp.async.ca copies 4 or 8 bytes here");
  emulator::cp_async(shared.address, global, Bytes, valid ? Bytes : 0);
}
inline void cp_async_commit() { emulator::cp_async_commit(); }
template <int N>
inline void cp_async_wait() { emulator::cp_async_wait(N); }
#endif
}  // namespace ptx
