// Bulk copies by the copy engine: boxes of a tensor (TMA) and plain ranges of bytes.
// Coordinates are those of the box's first element, innermost dimension first; they may lie outside:
// zeros are loaded there, nothing is stored. Loads complete on an mbarrier, stores in bulk groups.
#pragma once
#include "ptx/mbarrier.cuh"

namespace ptx {

// The bytes of a CUtensorMap; a member of the argument struct, read as &args.map.
struct alignas(64) TensorMap {
  unsigned long long opaque[16];
};

#ifdef __CUDACC__
__device__ inline void tma_prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
__device__ inline void tma_load_1d(Smem to, const TensorMap* map, Smem bar, int c0) {
  asm volatile(
      "cp.async.bulk.tensor.1d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3}], [%2];" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0)
      : "memory");
}
__device__ inline void tma_load_2d(Smem to, const TensorMap* map, Smem bar, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void tma_load_3d(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                   int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ inline void tma_load_4d(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                   int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ inline void tma_load_5d(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                   int c2, int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2];" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
__device__ inline void tma_load_2d_multicast(Smem to, const TensorMap* map, Smem bar, int c0,
                                             int c1, uint32_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "h"((uint16_t)ranks)
      : "memory");
}
__device__ inline void tma_load_3d_multicast(Smem to, const TensorMap* map, Smem bar, int c0,
                                             int c1, int c2, uint32_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2), "h"((uint16_t)ranks)
      : "memory");
}
__device__ inline void tma_load_4d_multicast(Smem to, const TensorMap* map, Smem bar, int c0,
                                             int c1, int c2, int c3, uint32_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "h"((uint16_t)ranks)
      : "memory");
}
__device__ inline void tma_load_5d_multicast(Smem to, const TensorMap* map, Smem bar, int c0,
                                             int c1, int c2, int c3, int c4, uint32_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile"
      ".mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(to.address),
      "l"(map), "r"(bar.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "h"((uint16_t)ranks)
      : "memory");
}
__device__ inline void tma_store_1d(const TensorMap* map, Smem from, int c0) {
  asm volatile(
      "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group "
      "[%0, {%2}], [%1];" ::"l"(map),
      "r"(from.address), "r"(c0)
      : "memory");
}
__device__ inline void tma_store_2d(const TensorMap* map, Smem from, int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group "
      "[%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(from.address), "r"(c0), "r"(c1)
      : "memory");
}
__device__ inline void tma_store_3d(const TensorMap* map, Smem from, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group "
      "[%0, {%2, %3, %4}], [%1];" ::"l"(map),
      "r"(from.address), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
__device__ inline void tma_store_4d(const TensorMap* map, Smem from, int c0, int c1, int c2,
                                    int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group "
      "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
      "r"(from.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
__device__ inline void tma_store_5d(const TensorMap* map, Smem from, int c0, int c1, int c2,
                                    int c3, int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group "
      "[%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map),
      "r"(from.address), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}
// `bytes` and both addresses are multiples of 16.
__device__ inline void bulk_load(Smem to, const void* from, uint32_t bytes, Smem bar) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to.address),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(bar.address)
      : "memory");
}
__device__ inline void bulk_store(void* to, Smem from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(from.address), "r"(bytes)
               : "memory");
}
__device__ inline void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All but the last N groups of stores have read shared memory.
template <int N>
__device__ inline void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
// ... and are visible in global memory.
template <int N>
__device__ inline void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}
// What this thread wrote to shared memory is visible to bulk copies and wgmma.
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// Between stores to global memory and the bulk copies that read them, on both sides of the flag that says so.
__device__ inline void fence_proxy_async_global() {
  asm volatile("fence.proxy.async.global;" ::: "memory");
}
#else
inline void tma_prefetch(const TensorMap*) {}
inline void tma_load_1d(Smem to, const TensorMap* map, Smem bar, int c0,
                        int line = __builtin_LINE()) {
  const int at[] = {c0};
  emulator::tensor_load(to.address, map, bar.address, at, 1, 0, line);
}
inline void tma_load_2d(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                        int line = __builtin_LINE()) {
  const int at[] = {c0, c1};
  emulator::tensor_load(to.address, map, bar.address, at, 2, 0, line);
}
inline void tma_load_3d(Smem to, const TensorMap* map, Smem bar, int c0, int c1, int c2,
                        int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2};
  emulator::tensor_load(to.address, map, bar.address, at, 3, 0, line);
}
inline void tma_load_4d(Smem to, const TensorMap* map, Smem bar, int c0, int c1, int c2, int c3,
                        int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3};
  emulator::tensor_load(to.address, map, bar.address, at, 4, 0, line);
}
inline void tma_load_5d(Smem to, const TensorMap* map, Smem bar, int c0, int c1, int c2, int c3,
                        int c4, int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3, c4};
  emulator::tensor_load(to.address, map, bar.address, at, 5, 0, line);
}
inline void tma_load_2d_multicast(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                  uint32_t ranks, int line = __builtin_LINE()) {
  const int at[] = {c0, c1};
  emulator::tensor_load(to.address, map, bar.address, at, 2, ranks, line);
}
inline void tma_load_3d_multicast(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                  int c2, uint32_t ranks, int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2};
  emulator::tensor_load(to.address, map, bar.address, at, 3, ranks, line);
}
inline void tma_load_4d_multicast(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                                  int c2, int c3, uint32_t ranks, int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3};
  emulator::tensor_load(to.address, map, bar.address, at, 4, ranks, line);
}
inline void tma_load_5d_multicast(Smem to, const TensorMap* map, Smem bar, int c0, int c1,
                              int c2, int c3, int c4, uint32_t ranks, int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3, c4};
  emulator::tensor_load(to.address, map, bar.address, at, 5, ranks, line);
}
inline void tma_store_1d(const TensorMap* map, Smem from, int c0, int line = __builtin_LINE()) {
  const int at[] = {c0};
  emulator::tensor_store(map, from.address, at, 1, line);
}
inline void tma_store_2d(const TensorMap* map, Smem from, int c0, int c1,
                         int line = __builtin_LINE()) {
  const int at[] = {c0, c1};
  emulator::tensor_store(map, from.address, at, 2, line);
}
inline void tma_store_3d(const TensorMap* map, Smem from, int c0, int c1, int c2,
                         int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2};
  emulator::tensor_store(map, from.address, at, 3, line);
}
inline void tma_store_4d(const TensorMap* map, Smem from, int c0, int c1, int c2, int c3,
                         int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3};
  emulator::tensor_store(map, from.address, at, 4, line);
}
inline void tma_store_5d(const TensorMap* map, Smem from, int c0, int c1, int c2, int c3,
                         int c4, int line = __builtin_LINE()) {
  const int at[] = {c0, c1, c2, c3, c4};
  emulator::tensor_store(map, from.address, at, 5, line);
}
inline void bulk_load(Smem to, const void* from, uint32_t bytes, Smem bar) {
  emulator::bulk_load(to.address, from, bytes, bar.address, 0);
}
inline void bulk_store(void* to, Smem from, uint32_t bytes) {
  emulator::bulk_store(to, from.address, bytes);
}
inline void tma_store_commit() { emulator::bulk_commit(); }
template <int N>
inline void tma_store_wait_read() { emulator::bulk_wait(N); }
template <int N>
inline void tma_store_wait() { emulator::bulk_wait(N); }
inline void fence_proxy_async() { emulator::fence_proxy(); }
inline void fence_proxy_async_global() {}  // the emulator has no proxies over global memory
#endif
}  // namespace ptx
