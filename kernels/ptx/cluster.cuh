// Clusters: blocks that run together and reach each other's shared memory.
#pragma once
#include "ptx/shared.cuh"

namespace ptx {
#ifdef __CUDACC__
__device__ inline uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ inline uint32_t cluster_blocks() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(r));
  return r;
}
// The address of the same place in block `rank`.
__device__ inline uint32_t mapa(Smem at, uint32_t rank) {
  uint32_t r;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at.address), "r"(rank));
  return r;
}
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
// Orders nothing that was written before but mbarrier_fence_init; without the MEMBAR of a release.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ inline float ld_cluster_f32(uint32_t address) {
  float v;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(address) : "memory");
  return v;
}
__device__ inline void st_cluster_f32(uint32_t address, float v) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory");
}
__device__ inline float4 ld_cluster_v4(uint32_t address) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(address)
               : "memory");
  return v;
}
#else
inline uint32_t cluster_rank() { return emulator::cluster_rank(); }
inline uint32_t cluster_blocks() { return emulator::cluster_blocks(); }
inline uint32_t mapa(Smem at, uint32_t rank) { return rank << 24 | (at.address & 0xFFFFFF); }
inline void cluster_arrive(int line = __builtin_LINE()) {
  emulator::cluster_arrive(emulator::Order::Release, line);
}
inline void cluster_arrive_relaxed(int line = __builtin_LINE()) {
  emulator::cluster_arrive(emulator::Order::Relaxed, line);
}
inline void cluster_wait(int line = __builtin_LINE()) { emulator::cluster_wait(line); }
inline float ld_cluster_f32(uint32_t address, int line = __builtin_LINE()) {
  return *reinterpret_cast<float*>(emulator::cluster_load(address, 4, line));
}
inline void st_cluster_f32(uint32_t address, float v, int line = __builtin_LINE()) {
  *reinterpret_cast<float*>(emulator::cluster_store(address, 4, line)) = v;
}
inline float4 ld_cluster_v4(uint32_t address, int line = __builtin_LINE()) {
  return *reinterpret_cast<float4*>(emulator::cluster_load(address, 16, line));
}
#endif
// All threads of all blocks; what they wrote before is visible to the others.
__device__ inline void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}
// All threads of all blocks run, and see each other's initialised mbarriers; nothing else is ordered.
__device__ inline void cluster_start() {
  cluster_arrive_relaxed();
  cluster_wait();
}
}  // namespace ptx
