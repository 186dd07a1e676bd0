// What the emulated driver hands to a kernel compiled for the host.
#pragma once
#include <cstddef>
#include <cstdint>

#define EMULATED_SYMBOL __attribute__((visibility("default")))

namespace emulator {

// In which order threads run, and when asynchronous operations happen.
enum class Schedule : int {
  Early = 0,   // threads and blocks ascending; copies and matrix products at once
  Late = 1,    // descending; as late as legal, their destinations poisoned meanwhile
  Random = 2,  // shuffled by the seed; any legal moment
};

struct Launch {
  unsigned grid[3], block[3];
  size_t shared_bytes;
  Schedule schedule;
  uint64_t seed;         // of Random
  char* message;         // receives what went wrong
  size_t message_bytes;
  unsigned cluster = 1;  // blocks of a cluster, along x
  unsigned workers = 0;  // threads of the host; 0: as many as it has cores (1 under Random)
  bool programmatic = false;  // started before the kernel in front of it has ended
  char* waited = nullptr;     // becomes 1 when a thread waits for that end
  unsigned resident = 0; // clusters that run at a time, the others wait until one has ended; 0: all
};

// Runs every block of the grid; 0, or 1 with a message.
int run_grid(const Launch& launch, void (*body)(const void*), const void* args);

}  // namespace emulator
