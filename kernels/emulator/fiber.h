// A CUDA thread as a fiber: its own stack and a switch of fourteen instructions (20 ns).
#pragma once
#include <cstddef>
#include <cstdint>
#if !defined(__x86_64__)
#error "the emulator's fiber switch is written for x86-64"
#endif

namespace emulator {

constexpr size_t kStackBytes = 64 << 10;
constexpr uint64_t kStackCanary = 0x5e17ed9e5e17ed9e;

extern "C" void emulator_switch(void** save, void* to);

// Saved registers and return address of a fiber that has not started: `entry` runs on first switch,
// with the stack 8 bytes off a multiple of 16, as after a call.
inline void* fresh_stack(char* bottom, void (*entry)()) {
  *reinterpret_cast<uint64_t*>(bottom) = kStackCanary;
  uint64_t* top = reinterpret_cast<uint64_t*>(bottom + kStackBytes);
  *--top = 0;                                  // where a caller's address lies; entry never returns
  *--top = reinterpret_cast<uint64_t>(entry);  // popped by `ret`
  for (int i = 0; i < 6; ++i) *--top = 0;      // rbx rbp r12-r15
  return top;
}

inline bool stack_overflowed(const char* bottom) {
  return *reinterpret_cast<const uint64_t*>(bottom) != kStackCanary;
}

}  // namespace emulator
