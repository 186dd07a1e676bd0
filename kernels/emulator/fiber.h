// Stacks, and a switch between them of fourteen instructions.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "emulator/sanitizer.h"
#include "emulator/thread.h"
#if !defined(__x86_64__)
#error "the emulator's fiber switch is written for x86-64"
#endif

__asm__(R"(
.text
.local emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbx; pushq %rbp; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbp; popq %rbx
  ret
.size emulator_switch,.-emulator_switch
)");

namespace emulator {

extern "C" void emulator_switch(void** save, void* to);

constexpr uint64_t kStackCanary = 0x5e17ed9e5e17ed9e;

inline uint64_t* canary_of(char* stack) {
  return reinterpret_cast<uint64_t*>(thread_of_stack(uintptr_t(stack)) + 1);
}
inline bool stack_overflowed(char* stack) { return *canary_of(stack) != kStackCanary; }

// Saved registers and return address of a fiber that has not started: `entry` runs on first switch,
// with the stack 8 bytes off a multiple of 16, as after a call.
inline void* fresh_stack(char* stack, void (*entry)()) {
  sanitizer::allow(stack, kStackBytes);
  *canary_of(stack) = kStackCanary;
  // Tops are spread over the cache's sets: stacks are a power of two apart.
  char* end = stack + kStackBytes - stack_color(uintptr_t(stack)) * 832;
  auto* top = reinterpret_cast<uint64_t*>(end);
  *--top = 0;                                  // where a caller's address lies; entry never returns
  *--top = reinterpret_cast<uint64_t>(entry);  // popped by `ret`
  for (int i = 0; i < 6; ++i) *--top = 0;      // rbx rbp r12-r15
  return top;
}

// Free stacks of one unit; pages are touched only where used.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  ~Stacks() {
    for (auto& m : mappings_) munmap(m.p, m.n);
  }
  char* take() {
    if (free_.empty()) map_more();
    char* stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void give(char* stack) { free_.push_back(stack); }

 private:
  struct Mapping {
    char* p;
    size_t n;
  };
  void map_more() {
    const size_t n = (kChunk + 1) * kStackBytes;
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) __builtin_trap();
    madvise(p, n, MADV_NOHUGEPAGE);  // a stack uses two of its pages
    mappings_.push_back({static_cast<char*>(p), n});
    add(mappings_.back());
  }
  void add(const Mapping& m) {
    char* first = reinterpret_cast<char*>((uintptr_t(m.p) + kStackBytes - 1) & ~(kStackBytes - 1));
    for (size_t i = kChunk; i-- > 0;) free_.push_back(first + i * kStackBytes);
  }
  static constexpr size_t kChunk = 64;
  std::vector<Mapping> mappings_;
  std::vector<char*> free_;
};

}  // namespace emulator
