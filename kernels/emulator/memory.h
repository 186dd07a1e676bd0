// Emulated device memory: every allocation starts as NaN and lies between guard bands.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>

// There when the process runs with AddressSanitizer, however this library was compiled.
extern "C" {
__attribute__((weak)) void __asan_poison_memory_region(const volatile void*, size_t);
__attribute__((weak)) void __asan_unpoison_memory_region(const volatile void*, size_t);
}

namespace emulator {

class Memory {
 public:
  // Where nothing runs, new memory may stay as it is: what nobody touches costs nothing.
  void poison(bool on) { poisons_ = on; }

  uint64_t allocate(size_t bytes) {
    const size_t rounded = (bytes + kGuardBytes - 1) / kGuardBytes * kGuardBytes;
    auto* base = static_cast<unsigned char*>(std::aligned_alloc(kGuardBytes, rounded + 2 * kGuardBytes));
    if (!base) return 0;
    std::memset(base, kGuard, kGuardBytes);
    if (poisons_) std::memset(base + kGuardBytes, kPoison, bytes);
    std::memset(base + kGuardBytes + bytes, kGuard, rounded - bytes + kGuardBytes);
    const uint64_t address = reinterpret_cast<uint64_t>(base + kGuardBytes);
    forbid(base, kGuardBytes);
    forbid(base + kGuardBytes + (bytes + 7) / 8 * 8, rounded - (bytes + 7) / 8 * 8 + kGuardBytes);
    live_[address] = {bytes, rounded + 2 * kGuardBytes};
    in_use_ += bytes;
    return address;
  }

  bool release(uint64_t address) {
    auto it = live_.find(address);
    if (it == live_.end()) return false;
    if (__asan_unpoison_memory_region)
      __asan_unpoison_memory_region(reinterpret_cast<void*>(address - kGuardBytes), it->second.total);
    std::free(reinterpret_cast<void*>(address - kGuardBytes));
    in_use_ -= it->second.bytes;
    live_.erase(it);
    return true;
  }

  size_t in_use() const { return in_use_; }

  // Whether [address, address + bytes) lies in one allocation.
  bool holds(uint64_t address, size_t bytes) const {
    auto it = live_.upper_bound(address);
    if (it == live_.begin()) return false;
    --it;
    const uint64_t offset = address - it->first;
    return offset <= it->second.bytes && bytes <= it->second.bytes - offset;
  }

  // The size of an allocation whose guard bands were written, or 0.
  size_t damaged() const {
    if (__asan_poison_memory_region) return 0;  // the write itself was reported
    for (const auto& [address, a] : live_) {
      const auto* base = reinterpret_cast<const unsigned char*>(address - kGuardBytes);
      for (size_t i = 0; i < a.total; ++i) {
        if (i == kGuardBytes) i += a.bytes;
        if (i < a.total && base[i] != kGuard) return a.bytes ? a.bytes : 1;
      }
    }
    return 0;
  }

 private:
  static void forbid(const void* p, size_t n) {
    if (__asan_poison_memory_region) __asan_poison_memory_region(p, n);
  }
  static constexpr size_t kGuardBytes = 256;
  static constexpr unsigned char kGuard = 0xA5, kPoison = 0xFF;
  struct Allocation { size_t bytes, total; };
  std::map<uint64_t, Allocation> live_;
  size_t in_use_ = 0;
  bool poisons_ = true;
};

}  // namespace emulator
