// Asynchronous work that has been issued and has not happened.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "emulator/sanitizer.h"

namespace emulator {

struct Fiber;

// What one thread has issued.
struct InFlight {
  struct Copy {  // cp.async
    unsigned char* to;
    const void* from;
    unsigned bytes, valid, group;  // of the bytes, `valid` are copied and the rest is zero
  };
  struct Store {  // bulk copy from shared to global memory; `happen` is empty when it has happened
    std::function<void()> happen;
    unsigned group;
  };
  std::vector<Copy> copies;
  std::vector<Store> stores;
  unsigned copy_group = 0, store_group = 0;  // the ones being filled
  std::vector<unsigned char*> unfenced;  // rows written by stmatrix, not fenced for the async proxy
  static constexpr unsigned kCopyTokens = 16;
  // Names for ThreadSanitizer; copied[group % kCopyTokens].
  char issued = 0, stored = 0, copied[kCopyTokens] = {};
  void clear() {
    copies.clear(), stores.clear(), unfenced.clear();
    copy_group = store_group = 0;
  }
};

// The 64 x N accumulator of a warpgroup while products that write it are in flight.
struct Accumulator {
  float* registers[128] = {};  // of each thread: N / 2 values
  unsigned n = 0;
  unsigned products = 0;  // in flight
  std::vector<float> values;
};

// One wgmma.mma_async.
struct Product {
  Accumulator* d = nullptr;
  bool bf16 = true, transpose_a = false, transpose_b = false, a_in_registers = false;
  bool accumulate = false;
  uint64_t a = 0, b = 0;               // descriptors
  const uint32_t* a_registers[128] = {};
  unsigned rank = 0;                   // of the block
  unsigned group = 0;
  bool done = false;
};

// A point that all 128 threads of a warpgroup pass in the same order.
struct WarpgroupStep {
  const char* op = nullptr;
  uint64_t key = 0;  // what must agree
  int line = 0;
  unsigned arrived = 0;
  float* d[128] = {};
  const uint32_t* a[128] = {};
  unsigned* finished[128] = {};  // of a wait: receives the number of groups that are done
  std::vector<Fiber*> waiting;
};

struct Warpgroup {
  std::deque<std::unique_ptr<WarpgroupStep>> steps;  // begun by some threads, not by all
  uint64_t first_step = 0;                           // number of steps.front()
  uint64_t next_step[128] = {};
  std::vector<std::unique_ptr<WarpgroupStep>> unused_steps;
  std::deque<std::unique_ptr<Product>> products;  // in order of issue, the oldest first
  std::vector<std::unique_ptr<Accumulator>> accumulators;
  unsigned group = 0;  // the one being filled
  unsigned live = 0;   // threads that have not ended
  char issued = 0, done[64] = {};  // names for ThreadSanitizer; done[group % 64]
  sanitizer::Identity identity[2] = {};
  void clear() {
    while (!steps.empty()) unused_steps.push_back(std::move(steps.front())), steps.pop_front();
    first_step = 0;
    for (auto& s : next_step) s = 0;
    products.clear(), accumulators.clear();
    group = 0;
  }
};

}  // namespace emulator
