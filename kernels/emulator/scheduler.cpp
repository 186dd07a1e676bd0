// Runs a grid on the host. One translation unit: a kernel object links this file and nothing else.
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

#include "emulator/kernel.h"
#include "emulator/models.h"
#include "emulator/unit.h"

namespace emulator {

namespace {
constexpr size_t kSharedGuardBytes = 256;
constexpr unsigned char kGuard = 0xA5, kPoison = 0xFF;
constexpr unsigned kFruitlessRounds = 2000;  // of all units polling, before it is a deadlock
}  // namespace

struct Shared {
  const Launch* launch = nullptr;
  void (*body)(const void*) = nullptr;
  const void* args = nullptr;
  std::vector<uint32_t> order;       // of units, under Random
  uint64_t units = 0;
  std::atomic<uint64_t> started{0};  // units taken by a worker
  std::atomic<uint64_t> progress{0};
  std::atomic<unsigned> workers{1};
  std::mutex idle_guard;
  unsigned idle = 0;        // workers whose units have only polled since
  uint64_t idle_since = 0;  // this progress
  bool all_idle(uint64_t seen) {
    const std::lock_guard lock(idle_guard);
    return idle_since == seen && seen == progress && idle > 0 && idle == workers;
  }
  std::atomic<bool> failed{false};
  char ended = 0;  // a name for ThreadSanitizer
  std::mutex guard;
};

Unit::~Unit() {
  sanitizer::Quiet quiet;
  std::free(shared);
#if defined(EMULATOR_TSAN)
  if (left_in_the_middle) return;
  auto end = [](sanitizer::Identity i) {
    if (i) sanitizer::end_identity(i);
  };
  for (Fiber& f : fibers) end(f.identity);
  for (auto i : engines) end(i);
  for (auto& w : warpgroups) end(w.identity[0]), end(w.identity[1]);
#endif
}

// ---- failures

namespace {

void report(Unit& u, const Fiber* f, const char* message) {
  Shared& s = *u.launch;
  std::lock_guard lock(s.guard);
  if (s.failed.exchange(true)) return;
  const Launch& l = *s.launch;
  if (!f) {
    const uint3 b = u.blocks[0].id;
    std::snprintf(l.message, l.message_bytes, "block (%u,%u,%u): %s", b.x, b.y, b.z, message);
    return;
  }
  const uint3 b = u.blocks[f->rank].id;
  const unsigned i = f->index % u.block_threads, x = i % l.block[0], rest = i / l.block[0];
  std::snprintf(l.message, l.message_bytes, "block (%u,%u,%u) thread (%u,%u,%u): %s", b.x, b.y, b.z,
                x, rest % l.block[1], rest / l.block[1], message);
}

// ---- switching

void enter_main(Unit& u, void** save, void** fake) {
  u.current = nullptr;
  sanitizer::before_switch(fake, u.main_stack);
  sanitizer::become(u.main_identity);
  emulator_switch(save, u.main_stack_pointer);
}

void fiber_main();

void bind(Unit& u, Fiber* f, char* stack) {
  const Launch& l = *u.launch->launch;
  Block& b = u.blocks[f->rank];
  const unsigned i = f->index % u.block_threads, x = i % l.block[0], rest = i / l.block[0];
  f->stack = stack;
  *thread_of_stack(uintptr_t(stack)) = {{x, rest % l.block[1], rest / l.block[1]},
                                        b.id,
                                        {l.block[0], l.block[1], l.block[2]},
                                        {l.grid[0], l.grid[1], l.grid[2]},
                                        b.shared,
                                        i % 32,
                                        f->rank,
                                        f,
                                        &u};
}

void enter(Unit& u, Fiber* f, void** save, void** fake) {
  if (!f->stack) {
    if (kReuse || !f->home) f->home = u.stacks.take();
    bind(u, f, f->home);
    f->stack_pointer = fresh_stack(f->stack, fiber_main);
    f->fake_stack = nullptr;
  }
  u.current = f;
  sanitizer::before_switch(fake, {f->stack, kStackBytes});
  sanitizer::become(f->identity);
  emulator_switch(save, f->stack_pointer);
}

// The next fiber to run; asynchronous operations happen here when their time has come.
Fiber* pick(Unit& u) {
  const bool random = u.launch->launch->schedule == Schedule::Random;
  for (;;) {
    size_t due = 0;
    if (random && !u.pending.empty() && next_random(u.random) % 64 == 0)
      due = next_random(u.random) % u.pending.size();
    else if (!u.ready.empty())
      return u.ready.take(random ? next_random(u.random) % u.ready.size() : 0);
    else if (u.pending.empty())
      return nullptr;
    auto operation = std::move(u.pending[due]);
    u.pending.erase(u.pending.begin() + std::ptrdiff_t(due));
    operation();
  }
}

// Leaves the current fiber for `next`, or for the host thread's stack.
void leave_for(Unit& u, Fiber* me, Fiber* next) {
  if (next == me) {
    u.current = me;
    return;
  }
  if (stack_overflowed(me->stack)) {
    report(u, me, "stack overflow in the emulator");
    next = nullptr;
  }
  if (next)
    enter(u, next, &me->stack_pointer, &me->fake_stack);
  else
    enter_main(u, &me->stack_pointer, &me->fake_stack);
  sanitizer::after_switch(me->fake_stack);
}

// A barrier opens when all threads that have not ended wait at it.
void open_if_full(Unit& u, Block& b) {
  if (b.barrier.arrived == 0 || b.barrier.arrived < b.live) return;
  b.barrier.arrived = 0;
  auto& waiting = b.barrier.waiting;
  const bool late = schedule_of(u) == Schedule::Late;
  const auto before = [late](Fiber* x, Fiber* y) { return (x->index < y->index) != late; };
  if (!std::is_sorted(waiting.begin(), waiting.end(), before))
    std::sort(waiting.begin(), waiting.end(), before);
  for (Fiber* f : waiting) wake(u, f);
  waiting.clear();
}

void finish_meeting(Unit& u, Warp& w, Meeting& m, const Fiber* last);
void check_leaving(Unit& u, const Fiber* f);
// What a thread may not leave behind, or null.
const char* left_behind(Unit& u, const Fiber* f);

// The current thread has ended; what waited only for it goes on.
void end_thread(Unit& u, Fiber* me) {
  if (const char* what = left_behind(u, me)) fail(what);
  check_leaving(u, me);
  me->done = true;
  --u.live;
  Block& b = u.blocks[me->rank];
  --b.live;
  open_if_full(u, b);
  const unsigned thread = me->index % u.block_threads;
  --u.warpgroups[me->rank * ((u.block_threads + 127) / 128) + thread / 128].live;
  Warp& w = u.warps[me->warp];
  w.live &= ~(1u << thread % 32);
  for (unsigned rest = w.begun; rest; rest &= rest - 1) {
    Meeting& m = w.meetings[__builtin_ctz(rest)];
    if (m.arrived == (m.mask & w.live)) finish_meeting(u, w, m, nullptr);
  }
}

// The first function of every stack: runs threads that have not started, one after another, and
// leaves when the next one to run has a stack of its own.
void fiber_main() {
  Thread* slot = here();
  Unit& u = *slot->unit;
  const sanitizer::StackRange from = sanitizer::after_switch(nullptr);
  if (!u.main_stack.bottom) u.main_stack = from;
  for (;;) {
    Fiber* me = slot->fiber;
    sanitizer::acquire(&u.started);
    u.launch->body(u.launch->args);
    Fiber* next;
    char* stack = me->stack;
    {
      sanitizer::Quiet quiet;
      end_thread(u, me);
      next = u.launch->failed ? nullptr : pick(u);
      if (stack_overflowed(stack)) report(u, me, "stack overflow in the emulator"), next = nullptr;
      if (kReuse && next && !next->stack) {
        bind(u, next, stack);
        u.current = next;
        continue;
      }
      if (kReuse) u.stacks.give(stack);
    }
    void* nowhere;
    if (next)
      enter(u, next, &nowhere, nullptr);
    else
      enter_main(u, &nowhere, nullptr);
    __builtin_unreachable();
  }
}

}  // namespace

void fail(const char* message) {
  Thread* t = here();
  report(*t->unit, t->fiber, message);
  void* nowhere;
  enter_main(*t->unit, &nowhere, nullptr);
  __builtin_unreachable();
}

void failf(const char* format, ...) {
  char text[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(text, sizeof text, format, list);
  va_end(list);
  fail(text);
}

// ---- waiting and waking

Schedule schedule_of(const Unit& u) { return u.launch->launch->schedule; }
const Launch& launch_of(const Unit& u) { return *u.launch->launch; }

InFlight& in_flight(Fiber* f) {
  if (!f->in_flight) f->in_flight = std::make_unique<InFlight>();
  f->has_in_flight = true;
  return *f->in_flight;
}

bool at_once(Unit& u) {
  const Schedule s = schedule_of(u);
  return s == Schedule::Early || (s == Schedule::Random && (next_random(u.random) & 1));
}

void wait_here(const char* where, int line) {
  Unit& u = *here()->unit;
  Fiber* me = u.current;
  me->where = where, me->line = line;
  leave_for(u, me, pick(u));
  if (u.launch->failed) fail("");
}

void wake(Unit& u, Fiber* f) { u.ready.push_back(f); }
void wake_soon(Unit& u, Fiber* f) { u.ready.push_front(f); }

void yield() {
  Unit& u = *here()->unit;
  wake(u, u.current);
  wait_here("a yield", 0);
}

void grid_wait() {
  if (char* waited = here()->unit->launch->launch->waited) __atomic_store_n(waited, 1, __ATOMIC_RELAXED);
}

void fence() {
  static char token;  // to ThreadSanitizer, a fence is ordered after every earlier one
  sanitizer::acquire(&token);
  sanitizer::release(&token);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

unsigned poll(const unsigned* p) {
  Unit& u = *here()->unit;
  Fiber* me = here()->fiber;
  const unsigned value = __atomic_load_n(p, __ATOMIC_ACQUIRE);
  sanitizer::acquire(p);
  if (me->spin_address == p && me->spin_value == value) {
    u.spinning.push_back(me);
    wait_here("a poll of a flag in global memory", 0);
  } else if (me->spin_address == p) {
    ++u.launch->progress;
  }
  me->spin_address = p, me->spin_value = value;
  return value;
}

void barrier(int line) {
  Thread* t = here();
  sanitizer::Quiet quiet;
  Unit& u = *t->unit;
  Block& block = u.blocks[t->rank];
  Barrier& b = block.barrier;
  if (b.arrived && b.line != line)
    failf("divergent __syncthreads: lines %d and %d", b.line, line);
  b.line = line;
  sanitizer::release(&b);
  ++b.arrived;
  b.waiting.push_back(t->fiber);
  open_if_full(u, block);
  wait_here("__syncthreads", line);
  sanitizer::acquire(&b);
}

}  // namespace emulator

// Included in the order in which they use each other.
#include "emulator/meeting.h"
#include "emulator/copies.h"
#include "emulator/barriers.h"
#include "emulator/cluster.h"
#include "emulator/tma.h"
#include "emulator/tensor_core.h"
#include "emulator/wgmma.h"
#include "emulator/grid.h"
