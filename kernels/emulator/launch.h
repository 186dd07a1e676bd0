// What the emulated driver hands to a kernel compiled for the host.
#pragma once
#include <cstddef>
#include <cstdint>

#define EMULATED_SYMBOL __attribute__((visibility("default")))

namespace emulator {

// In which order the threads of a block (and the blocks of a grid) run between two barriers.
enum class Schedule : int { Early = 0 /* ascending */, Late = 1 /* descending */, Random = 2 };

struct Launch {
  unsigned grid[3], block[3];
  size_t shared_bytes;
  Schedule schedule;
  uint64_t seed;         // of Random
  char* message;         // receives what went wrong
  size_t message_bytes;
};

// Runs every block of the grid; 0, or 1 with a message.
int run_grid(const Launch& launch, void (*body)(const void*), const void* args);

}  // namespace emulator
