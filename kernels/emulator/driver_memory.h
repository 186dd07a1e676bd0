// Memory of the emulated driver. Part of driver.cpp.
#pragma once
#include "emulator/driver_state.h"

API cuMemAlloc_v2(uint64_t* p, size_t n) {
  std::lock_guard lock(guard);
  if (forbidden_by_capture()) return kCaptureUnsupported;
  if (n == 0) return kInvalidValue;
  *p = n > kTotalBytes - memory.in_use() ? 0 : memory.allocate(n);
  return *p ? kSuccess : kOutOfMemory;
}
API cuMemFree_v2(uint64_t p) {
  std::lock_guard lock(guard);
  if (forbidden_by_capture()) return kCaptureUnsupported;
  return memory.release(p) ? kSuccess : kInvalidValue;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) {
  std::lock_guard lock(guard);
  *total = kTotalBytes, *free = kTotalBytes - memory.in_use();
  return kSuccess;
}
API cuMemHostAlloc(void** p, size_t n, unsigned) {
  std::lock_guard lock(guard);
  if (forbidden_by_capture()) return kCaptureUnsupported;
  if (n == 0) return kInvalidValue;
  *p = std::aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  if (!*p) return kOutOfMemory;
  pinned[uint64_t(*p)] = n;
  return kSuccess;
}
API cuMemFreeHost(void* p) {
  std::lock_guard lock(guard);
  if (forbidden_by_capture()) return kCaptureUnsupported;
  land_until(last_landing);
  if (!pinned.erase(uint64_t(p))) return kInvalidValue;
  std::free(p);
  return kSuccess;
}

API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void* stream) {
  std::lock_guard lock(guard);
  if (!memory.holds(to, n)) return kInvalidValue;
  if (!host_ok(stream, from, n)) return kCaptureUnsupported;
  return submit(stream, [=] {
    land_until(last_landing);  // it may read what an earlier copy brought
    std::memcpy(reinterpret_cast<void*>(to), from, n);
    return unsigned(kSuccess);
  });
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void* stream) {
  std::lock_guard lock(guard);
  if (!memory.holds(from, n)) return kInvalidValue;
  if (!host_ok(stream, to, n)) return kCaptureUnsupported;
  return submit(stream, [=] {
    const auto* source = reinterpret_cast<const void*>(from);
    if (is_pinned(to, n)) land_later(to, source, n);
    else std::memcpy(to, source, n);
    return unsigned(kSuccess);
  });
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void* stream) {
  std::lock_guard lock(guard);
  if (!memory.holds(from, n) || !memory.holds(to, n)) return kInvalidValue;
  return submit(stream, [=] {
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), n);
    return unsigned(kSuccess);
  });
}
API cuMemsetD8Async(uint64_t to, unsigned char v, size_t n, void* stream) {
  std::lock_guard lock(guard);
  if (!memory.holds(to, n)) return kInvalidValue;
  return submit(stream, [=] {
    std::memset(reinterpret_cast<void*>(to), v, n);
    return unsigned(kSuccess);
  });
}
API cuMemsetD32Async(uint64_t to, unsigned v, size_t n, void* stream) {
  std::lock_guard lock(guard);
  if (to % 4 || !memory.holds(to, n * 4)) return kInvalidValue;
  return submit(stream, [=] {
    for (size_t i = 0; i < n; ++i) reinterpret_cast<unsigned*>(to)[i] = v;
    return unsigned(kSuccess);
  });
}
