// Runs a grid on the host: blocks one after another, the threads of a block as fibers.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "emulator/fiber.h"
#include "emulator/kernel.h"

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

__thread Thread* here = nullptr;

namespace {

constexpr size_t kSharedGuardBytes = 256;
constexpr unsigned char kGuard = 0xA5, kPoison = 0xFF;

enum class State { Ready, AtBarrier, Done };

struct Fiber {
  Thread thread;
  void* stack_top;
  char* stack;
  State state;
  int barrier_line;
};

struct Block {
  const Launch* launch;
  void (*body)(const void*);
  const void* args;
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  void* scheduler_stack = nullptr;
  uint64_t random = 1;
  bool failed = false;
};

thread_local Block* running = nullptr;

uint32_t next_random(uint64_t& s) {  // xorshift64
  s ^= s << 13, s ^= s >> 7, s ^= s << 17;
  return uint32_t(s >> 32);
}

template <class T>
void arrange(std::vector<T>& order, Schedule schedule, uint64_t& random) {
  if (schedule == Schedule::Late) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::Random)
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next_random(random) % i]);
}

void leave(State state) {
  Fiber* me = running->current;
  me->state = state;
  emulator_switch(&me->stack_top, running->scheduler_stack);
}

void report(const char* message) {
  const Fiber* f = running->current;
  const Launch& l = *running->launch;
  running->failed = true;
  if (f)
    std::snprintf(l.message, l.message_bytes, "block (%u,%u,%u) thread (%u,%u,%u): %s",
                  f->thread.block.x, f->thread.block.y, f->thread.block.z, f->thread.thread.x,
                  f->thread.thread.y, f->thread.thread.z, message);
  else
    std::snprintf(l.message, l.message_bytes, "%s", message);
}

void fiber_main() {
  running->body(running->args);
  leave(State::Done);
  __builtin_unreachable();
}

void resume(Fiber* f) {
  running->current = f;
  here = &f->thread;
  emulator_switch(&running->scheduler_stack, f->stack_top);
  if (!running->failed && stack_overflowed(f->stack)) report("stack overflow in the emulator");
}

// All waiting threads go on when nobody is left to come; they must wait at the same barrier.
bool release(std::vector<Fiber*>& ready) {
  for (auto& f : running->fibers) {
    if (f.state != State::AtBarrier) continue;
    if (!ready.empty() && ready[0]->barrier_line != f.barrier_line) {
      char text[128];
      std::snprintf(text, sizeof text, "divergent __syncthreads: lines %d and %d",
                    ready[0]->barrier_line, f.barrier_line);
      running->current = &f;
      report(text);
      return false;
    }
    ready.push_back(&f);
  }
  return !ready.empty();
}

bool run_block(Block& b) {
  std::vector<Fiber*> ready;
  for (auto& f : b.fibers) ready.push_back(&f);
  do {
    arrange(ready, b.launch->schedule, b.random);
    for (Fiber* f : ready) {
      f->state = State::Ready;
      resume(f);
      if (b.failed) return false;
    }
    ready.clear();
  } while (release(ready));
  return !b.failed;
}

struct Mapping {  // zeroed pages, touched only where used
  char* p;
  size_t n;
  explicit Mapping(size_t bytes)
      : p((char*)mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
        n(bytes) {}
  ~Mapping() { munmap(p, n); }
};

void start_block(Block& b, uint3 id, char* stacks, unsigned char* shared) {
  const Launch& l = *b.launch;
  std::memset(shared, kPoison, l.shared_bytes);
  std::memset(shared + l.shared_bytes, kGuard, kSharedGuardBytes);
  for (size_t i = 0; i < b.fibers.size(); ++i) {
    Fiber& f = b.fibers[i];
    const unsigned x = unsigned(i) % l.block[0], rest = unsigned(i) / l.block[0];
    f.thread = {{x, rest % l.block[1], rest / l.block[1]},
                id,
                {l.block[0], l.block[1], l.block[2]},
                {l.grid[0], l.grid[1], l.grid[2]},
                shared};
    f.stack = stacks + i * kStackBytes;
    f.stack_top = fresh_stack(f.stack, fiber_main);
  }
}

bool shared_guard_intact(const Launch& l, const unsigned char* shared) {
  const unsigned char* guard = shared + l.shared_bytes;
  return std::all_of(guard, guard + kSharedGuardBytes, [](unsigned char c) { return c == kGuard; });
}

}  // namespace

void fail(const char* message) {
  report(message);
  leave(State::Done);
  __builtin_unreachable();
}

void barrier(int line) {
  running->current->barrier_line = line;
  leave(State::AtBarrier);
}

int run_grid(const Launch& l, void (*body)(const void*), const void* args) {
  Block b{&l, body, args, {}};
  b.random = l.seed * 2 + 1;
  b.fibers.resize(size_t(l.block[0]) * l.block[1] * l.block[2]);
  Mapping stacks(b.fibers.size() * kStackBytes);
  Mapping memory(l.shared_bytes + kSharedGuardBytes);
  unsigned char* shared = reinterpret_cast<unsigned char*>(memory.p);
  std::vector<uint3> blocks;
  for (unsigned z = 0; z < l.grid[2]; ++z)
    for (unsigned y = 0; y < l.grid[1]; ++y)
      for (unsigned x = 0; x < l.grid[0]; ++x) blocks.push_back({x, y, z});
  arrange(blocks, l.schedule, b.random);
  running = &b;
  for (const uint3& id : blocks) {
    start_block(b, id, stacks.p, shared);
    if (!run_block(b)) break;
    if (!shared_guard_intact(l, shared)) {
      report("write past the end of shared memory");
      break;
    }
  }
  running = nullptr;
  return b.failed ? 1 : 0;
}

}  // namespace emulator
