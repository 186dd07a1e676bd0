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
  std::atomic<unsigned> idle{0}, workers{1};  // workers whose units only poll
  std::atomic<bool> failed{false};
  std::mutex guard;
};

Unit::~Unit() { std::free(shared); }

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
    bind(u, f, u.stacks.take());
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

// The current thread has ended; what waited only for it goes on.
void end_thread(Unit& u, Fiber* me) {
  me->done = true;
  --u.live;
  Block& b = u.blocks[me->rank];
  --b.live;
  open_if_full(u, b);
  Warp& w = u.warps[me->warp];
  w.live &= ~(1u << (me->index % u.block_threads % 32));
  for (Meeting& m : w.meetings)
    if (m.arrived && m.arrived == (m.mask & w.live)) finish_meeting(u, w, m, nullptr);
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
    u.launch->body(u.launch->args);
    sanitizer::Quiet quiet;
    end_thread(u, me);
    Fiber* next = u.launch->failed ? nullptr : pick(u);
    char* stack = me->stack;
    if (stack_overflowed(stack)) report(u, me, "stack overflow in the emulator"), next = nullptr;
    if (next && !next->stack) {
      bind(u, next, stack);
      u.current = next;
      sanitizer::become(next->identity);
      continue;
    }
    u.stacks.give(stack);
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

unsigned poll(const unsigned* p) {
  Unit& u = *here()->unit;
  Fiber* me = here()->fiber;
  const unsigned value = __atomic_load_n(p, __ATOMIC_ACQUIRE);
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

// ---- warp-wide functions

namespace {

void finish_meeting(Unit& u, Warp& w, Meeting& m, const Fiber* last) {
  const unsigned lanes = m.arrived, warp = unsigned(&w - u.warps.data());
  m.arrived = 0;
  if (m.run) m.run(w.args, lanes);
  const unsigned per_block = (u.block_threads + 31) / 32;
  Fiber* first = &u.fibers[size_t(warp / per_block) * u.block_threads + warp % per_block * 32];
  const bool late = schedule_of(u) == Schedule::Late;
  for (unsigned i = 0; i < 32; ++i) {
    const unsigned lane = late ? i : 31 - i;  // the last one queued runs first
    if ((lanes >> lane & 1) && first + lane != last) wake_soon(u, first + lane);
  }
}

}  // namespace

void meet(const char* op, int line, unsigned mask, void* arg, Together run, Meets who) {
  Thread* t = here();
  sanitizer::Quiet quiet;
  Unit& u = *t->unit;
  Warp& w = u.warps[t->fiber->warp];
  if (!(mask >> t->lane & 1)) failf("%s: the mask %08x lacks the calling lane %u", op, mask, t->lane);
  if (who == Meets::Whole && w.live != 0xFFFFFFFFu)
    failf("%s: all 32 lanes must call it; %08x have not ended", op, w.live);
  Meeting& m = w.meetings[__builtin_ctz(mask)];
  if (m.arrived && (m.line != line || m.mask != mask || std::strcmp(m.op, op)))
    failf("divergent warp: %s (line %d, mask %08x) while other lanes wait at %s (line %d, mask %08x)",
          op, line, mask, m.op, m.line, m.mask);
  m.op = op, m.line = line, m.mask = mask, m.run = run;
  m.arrived |= 1u << t->lane;
  w.args[t->lane] = arg;
  if (m.arrived != (mask & w.live)) return wait_here(op, line);
  finish_meeting(u, w, m, t->fiber);
  if (schedule_of(u) == Schedule::Random) yield();
}

void sync_warp(int line, unsigned mask) {
  Thread* t = here();
  void* token = &t->unit->warps[t->fiber->warp].meetings[__builtin_ctz(mask | 1u << 31)];
  sanitizer::release(token);
  meet("__syncwarp", line, mask, nullptr, nullptr);
  sanitizer::acquire(token);
}

unsigned live_lanes() {
  Thread* t = here();
  return t->unit->warps[t->fiber->warp].live;
}

// ---- units

namespace {

void allocate_shared(Unit& u, const Launch& l) {
  u.shared_pitch = (l.shared_bytes + kSharedGuardBytes + 1023) / 1024 * 1024;
  const size_t n = u.shared_pitch * l.cluster;
  if (n <= u.shared_capacity) return;
  std::free(u.shared);
  u.shared = static_cast<unsigned char*>(std::aligned_alloc(1024, n));
  u.shared_capacity = n;
}

void start_block(Unit& u, unsigned rank, uint64_t index) {
  const Launch& l = *u.launch->launch;
  Block& b = u.blocks[rank];
  const uint64_t x = index % l.grid[0], rest = index / l.grid[0];
  b.id = {unsigned(x), unsigned(rest % l.grid[1]), unsigned(rest / l.grid[1])};
  b.live = u.block_threads;
  b.shared = u.shared + rank * u.shared_pitch;
  b.barrier.arrived = 0;
  b.barrier.waiting.clear();
  sanitizer::forget_stack(b.shared, u.shared_pitch);
  std::memset(b.shared, kPoison, l.shared_bytes);
  std::memset(b.shared + l.shared_bytes, kGuard, kSharedGuardBytes);
  sanitizer::forbid(b.shared + (l.shared_bytes + 7) / 8 * 8, kSharedGuardBytes - 8);
}

// Every thread of the unit becomes ready, none has started.
void start_threads(Unit& u) {
  const unsigned per_block = (u.block_threads + 31) / 32;
  const bool late = schedule_of(u) == Schedule::Late;
  const size_t n = u.fibers.size();
  u.ready.reset(n);
  for (Warp& w : u.warps) {
    w.live = 0;
    for (Meeting& m : w.meetings) m.arrived = 0;
  }
  for (size_t k = 0; k < n; ++k) {
    const size_t i = late ? n - 1 - k : k;
    Fiber& f = u.fibers[i];
    const unsigned thread = unsigned(i % u.block_threads);
    f.index = unsigned(i), f.rank = unsigned(i / u.block_threads);
    f.warp = f.rank * per_block + thread / 32;
    f.stack = nullptr, f.done = false, f.where = "its start", f.spin_address = nullptr;
    f.copies.clear(), f.copy_group = 0;
    u.warps[f.warp].live |= 1u << thread % 32;
    u.ready.push_back(&f);
  }
}

void start_unit(Unit& u, uint64_t number) {
  const Launch& l = *u.launch->launch;
  u.block_threads = l.block[0] * l.block[1] * l.block[2];
  u.live = u.block_threads * l.cluster;
  u.fibers.resize(u.live);
  u.blocks.resize(l.cluster);
  u.warps.resize(size_t(l.cluster) * ((u.block_threads + 31) / 32));
  u.random = (l.seed * 2 + 1) * 0x9E3779B97F4A7C15ull ^ (number + 1) * 0xD1B54A32D192ED03ull;
  if (!u.random) u.random = 1;
  u.spinning.clear(), u.pending.clear();
  allocate_shared(u, l);
  for (unsigned r = 0; r < l.cluster; ++r) start_block(u, r, number * l.cluster + r);
  start_threads(u);
}

void describe_deadlock(Unit& u) {
  std::string text = "deadlock, no thread can run;";
  const Fiber* run = nullptr;  // of neighbours that wait at the same place
  const Fiber* last = nullptr;
  auto flush = [&] {
    if (!run) return;
    text += " threads " + std::to_string(run->index) + ".." + std::to_string(last->index) +
            " wait at " + run->where + " (line " + std::to_string(run->line) + ");";
  };
  for (Fiber& f : u.fibers) {
    if (f.done) continue;
    if (!run || f.where != run->where || f.line != run->line || f.index != last->index + 1)
      flush(), run = &f;
    last = &f;
  }
  flush();
  report(u, nullptr, text.c_str());
}

enum class Outcome { Ended, Polling, Failed };

Outcome run_unit(Unit& u) {
  for (Fiber* f : u.spinning) wake(u, f);
  u.spinning.clear();
  if (Fiber* f = pick(u)) {
    enter(u, f, &u.main_stack_pointer, &u.main_fake_stack);
    sanitizer::after_switch(u.main_fake_stack);
  }
  if (u.launch->failed) return Outcome::Failed;
  if (!u.live) return Outcome::Ended;
  if (!u.spinning.empty()) return Outcome::Polling;
  describe_deadlock(u);
  return Outcome::Failed;
}

bool shared_intact(Unit& u) {
  const size_t n = u.launch->launch->shared_bytes;
  for (Block& b : u.blocks) {
    sanitizer::forget_stack(b.shared, u.shared_pitch);
    const unsigned char* guard = b.shared + n;
    if (std::all_of(guard, guard + kSharedGuardBytes, [](auto c) { return c == kGuard; })) continue;
    report(u, nullptr, "write past the end of shared memory");
    return false;
  }
  return true;
}

// ---- workers: host threads that run units

// Units outlive a launch: their stacks and shared memory are warm.
class Pool {
 public:
  std::unique_ptr<Unit> take() {
    std::lock_guard lock(guard_);
    if (free_.empty()) return std::make_unique<Unit>();
    auto u = std::move(free_.back());
    free_.pop_back();
    return u;
  }
  void give(std::unique_ptr<Unit> u) {
    std::lock_guard lock(guard_);
    if (free_.size() < 4) free_.push_back(std::move(u));
  }

 private:
  std::mutex guard_;
  std::vector<std::unique_ptr<Unit>> free_;
};
Pool pool;

bool next_unit(Shared& s, uint64_t& number) {
  const uint64_t i = s.started.fetch_add(1);
  if (i >= s.units) return false;
  const Schedule schedule = s.launch->schedule;
  number = schedule == Schedule::Late ? s.units - 1 - i
           : schedule == Schedule::Random ? s.order[i] : i;
  return true;
}

void retire(std::unique_ptr<Unit> u, bool failed) {
  if (failed) u->stacks.all_free();
  pool.give(std::move(u));
}

// Polling units take turns; when nobody's poll has changed for long, it is a deadlock.
void run_polling(Shared& s, std::vector<std::unique_ptr<Unit>>& polling) {
  uint64_t seen = s.progress;
  unsigned fruitless = 0;
  bool idle = false;
  while (!polling.empty() && !s.failed) {
    for (size_t i = 0; i < polling.size() && !s.failed;) {
      const Outcome outcome = run_unit(*polling[i]);
      if (outcome == Outcome::Polling && ++i) continue;
      if (outcome == Outcome::Ended) shared_intact(*polling[i]);
      ++s.progress;
      retire(std::move(polling[i]), outcome == Outcome::Failed);
      polling.erase(polling.begin() + std::ptrdiff_t(i));
    }
    fruitless = s.progress == seen ? fruitless + 1 : 0;
    seen = s.progress;
    const bool now_idle = fruitless > kFruitlessRounds;
    if (now_idle != idle) now_idle ? ++s.idle : --s.idle;
    idle = now_idle;
    if (idle && s.idle == s.workers && !polling.empty()) describe_deadlock(*polling[0]);
    sched_yield();
  }
  if (idle) --s.idle;
}

void work(Shared& s) {
  std::vector<std::unique_ptr<Unit>> polling;
  uint64_t number;
  std::unique_ptr<Unit> u;
  while (!s.failed && next_unit(s, number)) {
    if (!u) u = pool.take();
    u->launch = &s;
    u->main_stack = {};
    u->main_identity = sanitizer::identity();
    start_unit(*u, number);
    const Outcome outcome = run_unit(*u);
    if (outcome == Outcome::Polling) polling.push_back(std::move(u));
    else if (outcome == Outcome::Ended) shared_intact(*u), ++s.progress;
  }
  if (u) retire(std::move(u), s.failed);
  run_polling(s, polling);
  for (auto& p : polling) retire(std::move(p), true);
  --s.workers;
}

unsigned workers_for(const Launch& l, uint64_t units) {
  if (l.workers) return unsigned(std::min<uint64_t>(l.workers, units));
  const uint64_t threads = units * l.cluster * l.block[0] * l.block[1] * l.block[2];
  // Random must be repeatable, and a small grid is done before a host thread has started.
  if (l.schedule == Schedule::Random || threads < 4096) return 1;
  return unsigned(std::min<uint64_t>(std::max(1u, std::thread::hardware_concurrency()), units));
}

}  // namespace

int run_grid(const Launch& l, void (*body)(const void*), const void* args) {
  Shared s;
  s.launch = &l, s.body = body, s.args = args;
  const uint64_t blocks = uint64_t(l.grid[0]) * l.grid[1] * l.grid[2];
  if (l.cluster == 0 || l.grid[0] % l.cluster) {
    std::snprintf(l.message, l.message_bytes, "grid.x = %u is no multiple of the cluster of %u",
                  l.grid[0], l.cluster);
    return 1;
  }
  s.units = blocks / l.cluster;
  uint64_t random = l.seed * 2 + 1;
  if (l.schedule == Schedule::Random) {
    for (uint64_t i = 0; i < s.units; ++i) s.order.push_back(uint32_t(i));
    for (size_t i = s.order.size(); i > 1; --i)
      std::swap(s.order[i - 1], s.order[next_random(random) % i]);
  }
  const unsigned workers = workers_for(l, s.units);
  s.workers = workers;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < workers; ++i) others.emplace_back([&s] { work(s); });
  work(s);
  for (auto& t : others) t.join();
  return s.failed ? 1 : 0;
}

}  // namespace emulator

// The models of single instructions, in the same object.
#include "emulator/copies.h"
#include "emulator/tensor_core.h"
