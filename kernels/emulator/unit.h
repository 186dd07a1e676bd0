// What runs together: the blocks of one cluster (one block without clusters), their threads as
// fibers, their shared memory, and the asynchronous operations in flight.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/in_flight.h"
#include "emulator/launch.h"
#include "emulator/ready_queue.h"
#include "emulator/warp.h"

namespace emulator {

struct Fiber {
  void* stack_pointer = nullptr;  // where it was left
  char* stack = nullptr;          // null: not started
  char* home = nullptr;           // the one it always has, where stacks are not reused
  unsigned index = 0;             // in the unit
  unsigned warp = 0;              // in the unit
  unsigned rank = 0;              // of its block
  bool done = false;
  int line = 0;                   // where it waits
  const char* where = "its start";
  const void* spin_address = nullptr;  // what it polls, and what it saw
  uint64_t spin_value = 0;
  bool has_in_flight = false;     // since its start
  std::unique_ptr<InFlight> in_flight;
  unsigned cluster_phase = 0;     // of the cluster barrier, when it arrived last
  int cluster_line = 0;           // of an arrival there it has not waited for
  bool sees_cluster = false;      // the last cluster barrier published what other blocks wrote
  int unpublished_store = 0;      // line of its last store to another block's shared memory
  int unfenced_init = 0;          // line of its last mbarrier.init
  unsigned named_phase[16] = {};  // of the numbered barriers, when it arrived last
  void* fake_stack = nullptr;     // AddressSanitizer's
  sanitizer::Identity identity = nullptr;
};

// Lanes of a warp on their way to one warp-wide function.
struct Meeting {
  const char* op = nullptr;
  int line = 0;
  unsigned mask = 0, arrived = 0;
  Together run = nullptr;
};

struct Warp {
  unsigned live = 0;   // lanes that have not ended
  unsigned begun = 0;  // meetings some lanes wait in
  void* args[32];
  Meeting meetings[32];  // each of other lanes
};

struct Barrier {
  unsigned arrived = 0;
  int line = 0;
  std::vector<Fiber*> waiting;
};

// bar.sync and bar.arrive with a number and a count of threads.
struct NamedBarrier {
  unsigned arrived = 0, threads = 0;
  int line = 0;
  unsigned phase = 0;  // a number that no other phase of the unit has had; 0: not used yet
  std::vector<Fiber*> waiting;
};

struct ClusterBarrier {
  unsigned arrived = 0, phase = 0;
  int line = 0;                 // of an arrival
  bool relaxed = false;         // some arrival of this phase was
  bool opened_relaxed = false;  // some arrival of the phase before was
  std::vector<Fiber*> waiting;
};

struct Block {
  uint3 id = {};
  unsigned live = 0;  // threads that have not ended
  unsigned char* shared = nullptr;
  Barrier barrier;
  NamedBarrier named[16];
  std::vector<uint32_t> mbarriers;  // where they were initialised
};

struct MbarrierWait {
  uint32_t address;
  Fiber* fiber;
};

// One launch, seen by all host threads that run its units.
struct Shared;

struct Unit {
  Shared* launch = nullptr;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Block> blocks;
  unsigned block_threads = 0;
  unsigned live = 0;
  ReadyQueue ready;
  std::vector<Fiber*> spinning;  // poll a flag of another unit
  std::vector<std::function<void()>> pending;  // asynchronous operations that have not happened
  std::vector<MbarrierWait> mbarrier_waits;
  ClusterBarrier cluster;
  unsigned named_phases = 0;  // of all numbered barriers so far
  std::deque<Warpgroup> warpgroups;
  char proxy = 0;  // what fence.proxy.async has published, to ThreadSanitizer
  sanitizer::Identity engines[16] = {};  // copies are not ordered among themselves
  unsigned next_engine = 0;
  Stacks stacks;
  void* main_stack_pointer = nullptr;  // of the host thread that runs this unit
  void* main_fake_stack = nullptr;
  sanitizer::StackRange main_stack;
  sanitizer::Identity main_identity = nullptr;
  Fiber* current = nullptr;
  bool left_in_the_middle = false;  // its launch failed
  char started = 0;                 // a name for ThreadSanitizer
  uint64_t random = 1;
  unsigned char* shared = nullptr;  // of all blocks
  size_t shared_pitch = 0, shared_capacity = 0;

  Unit() = default;
  Unit(const Unit&) = delete;
  ~Unit();
};

inline uint32_t next_random(uint64_t& s) {  // xorshift64
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return uint32_t(s >> 32);
}

// ---- what the models use of the scheduler

// The current fiber is queued where something will wake it; runs another one.
void wait_here(const char* where, int line);
InFlight& in_flight(Fiber* f);
// Makes a fiber ready: as the next to run, or after all others.
void wake_soon(Unit& u, Fiber* f);
void wake(Unit& u, Fiber* f);
Schedule schedule_of(const Unit& u);
// Whether an asynchronous operation happens when it is issued.
bool at_once(Unit& u);
const Launch& launch_of(const Unit& u);

}  // namespace emulator
