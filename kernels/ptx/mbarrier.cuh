// mbarriers: 64-bit words in shared memory that count arrivals and arrived bytes of a phase.
// A wait names the parity of the phase it waits for: 0 for the first, then 1, 0, ...
#pragma once
#include "ptx/cluster.cuh"
#include "ptx/shared.cuh"

namespace ptx {
#ifdef __CUDACC__
// By one thread, before mbarrier_fence_init and a barrier of the block (or cluster).
__device__ inline void mbarrier_init(Smem bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar.address), "r"(count) : "memory");
}
__device__ inline void mbarrier_fence_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives, and makes the phase wait for `bytes` of copies.
__device__ inline void mbarrier_expect_tx(Smem bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar.address), "r"(bytes)
               : "memory");
}
__device__ inline void mbarrier_arrive(Smem bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar.address) : "memory");
}
// At the same place in block `rank` of the cluster. Says only that this thread has come so far (a slot is
// read): what it wrote is not made visible there. With `.release.cluster` ptxas puts a MEMBAR over the whole
// GPU before every arrival.
__device__ inline void mbarrier_arrive_cluster(Smem bar, uint32_t rank) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mapa(bar, rank))
               : "memory");
}
__device__ inline bool mbarrier_test(Smem bar, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n.reg .pred P;\nmbarrier.try_wait.parity.shared::cta.b64 P, [%1], %2;\n"
      "selp.u32 %0, 1, 0, P;\n}"
      : "=r"(done)
      : "r"(bar.address), "r"(parity)
      : "memory");
  return done != 0;
}
__device__ inline void mbarrier_wait(Smem bar, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred P;\nL_%=:\nmbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1;\n"
      "@P bra D_%=;\nbra L_%=;\nD_%=:\n}" ::"r"(bar.address),
      "r"(parity)
      : "memory");
}
#else
inline void mbarrier_init(Smem bar, uint32_t count, int line = __builtin_LINE()) {
  emulator::mbarrier_init(bar.address, count, line);
}
inline void mbarrier_fence_init() { emulator::mbarrier_fence_init(); }
inline void mbarrier_expect_tx(Smem bar, uint32_t bytes, int line = __builtin_LINE()) {
  emulator::mbarrier_arrive_expect(bar.address, bytes, line);
}
inline void mbarrier_arrive(Smem bar, int line = __builtin_LINE()) {
  emulator::mbarrier_arrive(bar.address, line);
}
inline void mbarrier_arrive_cluster(Smem bar, uint32_t rank, int line = __builtin_LINE()) {
  emulator::mbarrier_arrive_cluster(mapa(bar, rank), line);
}
inline bool mbarrier_test(Smem bar, uint32_t parity) {
  return emulator::mbarrier_test(bar.address, parity);
}
inline void mbarrier_wait(Smem bar, uint32_t parity, int line = __builtin_LINE()) {
  emulator::mbarrier_wait(bar.address, parity, line);
}
#endif
}  // namespace ptx
