// The thread that is running now: its built-in variables lie at the bottom of its stack.
#pragma once
#include <cstddef>
#include <cstdint>

#include "emulator/vector_types.h"

namespace emulator {

struct Fiber;
struct Unit;

struct Thread {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned char* shared;  // dynamic shared memory of the block, 0xFF (NaN) at its start
  unsigned lane;          // in the warp
  unsigned rank;          // of the block in its cluster
  Fiber* fiber;
  Unit* unit;
};

// A stack is a power of two and aligned to its size, so the stack pointer finds the thread.
#if defined(__SANITIZE_ADDRESS__) || defined(EMULATOR_TSAN)
constexpr size_t kStackBytes = 512 << 10;
#else
constexpr size_t kStackBytes = 128 << 10;
#endif
constexpr size_t kStackColors = 64;  // stacks start at different cache sets

inline size_t stack_color(uintptr_t bottom) { return (bottom / kStackBytes) % kStackColors; }
inline Thread* thread_of_stack(uintptr_t bottom) {
  return reinterpret_cast<Thread*>(bottom + stack_color(bottom) * 256);
}

inline Thread* here() {
  uintptr_t stack;
  __asm__("movq %%rsp, %0" : "=r"(stack));
  return thread_of_stack(stack & ~(kStackBytes - 1));
}

// Stops the launch with a message that names block and thread.
[[noreturn]] void fail(const char* message);
[[noreturn]] __attribute__((format(printf, 1, 2))) void failf(const char* format, ...);

// Waits for all threads of the block that have not ended; `line` tells one barrier from another.
void barrier(int line);

// Lets the other threads run.
void yield();

// What this thread wrote before is visible to whoever sees what it writes after.
void fence();

// The kernel before has ended: it has, but one that was started early must ask.
void grid_wait();

}  // namespace emulator

#define threadIdx (emulator::here()->thread)
#define blockIdx (emulator::here()->block)
#define blockDim (emulator::here()->block_dim)
#define gridDim (emulator::here()->grid_dim)
