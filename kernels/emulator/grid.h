// Units from start to end, and the host threads that run them. Part of scheduler.cpp.
#pragma once
#include "emulator/faults.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

void allocate_shared(Unit& u, const Launch& l) {
  u.shared_pitch = (l.shared_bytes + kSharedGuardBytes + 1023) / 1024 * 1024;
  const size_t n = u.shared_pitch * l.cluster;
  if (kReuse && n <= u.shared_capacity) return;
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
  for (NamedBarrier& n : b.named) n.arrived = n.threads = n.phase = 0, n.waiting.clear();
  b.mbarriers.clear();
  sanitizer::allow(b.shared, u.shared_pitch);
  std::memset(b.shared, kPoison, l.shared_bytes);
  std::memset(b.shared + l.shared_bytes, kGuard, kSharedGuardBytes);
  sanitizer::forbid(b.shared + (l.shared_bytes + 7) / 8 * 8, kSharedGuardBytes - 8);
}

// By the host thread, because a thread is ordered after all its creator did before.
void create_identity(sanitizer::Identity& i) {
  if (!kReuse && !i) i = sanitizer::new_identity();
}

// Every thread of the unit becomes ready, none has started.
void start_threads(Unit& u) {
  const unsigned per_block = (u.block_threads + 31) / 32;
  const bool late = schedule_of(u) == Schedule::Late;
  const size_t n = u.fibers.size();
  u.ready.reset(n);
  for (Warp& w : u.warps) {
    w.live = w.begun = 0;
  }
  for (size_t k = 0; k < n; ++k) {
    const size_t i = late ? n - 1 - k : k;
    Fiber& f = u.fibers[i];
    const unsigned thread = unsigned(i % u.block_threads);
    f.index = unsigned(i), f.rank = unsigned(i / u.block_threads);
    f.warp = f.rank * per_block + thread / 32;
    f.stack = nullptr, f.done = false, f.where = "its start", f.spin_address = nullptr;
    if (f.has_in_flight) f.in_flight->clear();
    f.has_in_flight = f.sees_cluster = false, f.cluster_phase = 0;
    f.cluster_line = f.unpublished_store = f.unfenced_init = 0;
    create_identity(f.identity);
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
  u.spinning.clear(), u.pending.clear(), u.mbarrier_waits.clear();
  u.cluster.arrived = u.cluster.phase = 0, u.cluster.waiting.clear();
  u.cluster.relaxed = u.cluster.opened_relaxed = false;
  const unsigned per_block = (u.block_threads + 127) / 128;
  u.warpgroups.resize(size_t(l.cluster) * per_block);
  for (unsigned i = 0; i < u.warpgroups.size(); ++i) {
    u.warpgroups[i].clear();
    u.warpgroups[i].live = std::min(128u, u.block_threads - i % per_block * 128);
    for (auto& identity : u.warpgroups[i].identity) create_identity(identity);
  }
  for (auto& engine : u.engines) create_identity(engine);
  allocate_shared(u, l);
  for (unsigned r = 0; r < l.cluster; ++r) start_block(u, r, number * l.cluster + r);
  start_threads(u);
  sanitizer::release(&u.started);
}

void describe_deadlock(Unit& u) {
  std::string text = "deadlock, no thread can run;";
  if (const unsigned n = launch_of(u).resident)
    text += " only " + std::to_string(n) + (n > 1 ? " clusters are" : " cluster is") + " resident;";
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
  for (size_t i = 0; i < u.mbarrier_waits.size(); ++i) {
    const uint32_t a = u.mbarrier_waits[i].address;
    const bool seen = std::any_of(u.mbarrier_waits.begin(), u.mbarrier_waits.begin() + i,
                                  [a](const MbarrierWait& w) { return w.address == a; });
    if (!seen) text += describe_mbarrier(u, a);
  }
  report(u, nullptr, text.c_str());
}

enum class Outcome { Ended, Polling, Failed };

Outcome run_unit(Unit& u) {
  running_unit = &u;
  for (Fiber* f : u.spinning) wake(u, f);
  u.spinning.clear();
  if (Fiber* f = pick(u)) {
    enter(u, f, &u.main_stack_pointer, &u.main_fake_stack);
    sanitizer::after_switch(u.main_fake_stack);
  }
  running_unit = nullptr;
  if (u.launch->failed) return Outcome::Failed;
  if (!u.live) return Outcome::Ended;
  if (!u.spinning.empty()) return Outcome::Polling;
  describe_deadlock(u);
  return Outcome::Failed;
}

bool shared_intact(Unit& u) {
  const size_t n = u.launch->launch->shared_bytes;
  for (Block& b : u.blocks) {
    sanitizer::allow(b.shared, u.shared_pitch);
    const unsigned char* guard = b.shared + n;
    if (std::all_of(guard, guard + kSharedGuardBytes, [](auto c) { return c == kGuard; })) continue;
    report(u, nullptr, "write past the end of shared memory");
    return false;
  }
  return true;
}

// What its threads and engines did is visible after the launch, and not to the units that follow.
void end_unit(Unit& u) {
#if defined(EMULATOR_TSAN)
  auto join = [&](sanitizer::Identity i) {
    if (i) sanitizer::become(i), sanitizer::release(&u.launch->ended);
  };
  for (Fiber& f : u.fibers) join(f.identity);
  for (auto i : u.engines) join(i);
  for (auto& w : u.warpgroups) join(w.identity[0]), join(w.identity[1]);
  sanitizer::become(u.main_identity);
#endif
  shared_intact(u);
  ++u.launch->progress;
}

// ---- workers: host threads that run units

// Units outlive a launch: their stacks and shared memory are warm. Not to ThreadSanitizer, which has only so many threads at a time.
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
    if (kReuse && free_.size() < 4) free_.push_back(std::move(u));
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
  u->left_in_the_middle = failed;
  if (!failed) pool.give(std::move(u));
}

// Whether a worker has polled in vain for long since the last progress: progress anywhere makes all of them try again,
// also one that the system has not let run since.
struct Idle {
  void at(Shared& s, uint64_t progress) {
    if (counted && since == progress) return;
    const std::lock_guard lock(s.idle_guard);
    if (s.idle_since != progress) s.idle_since = progress, s.idle = 0;
    counted = true, since = progress, ++s.idle;
  }
  void leave(Shared& s) {
    if (!counted) return;
    const std::lock_guard lock(s.idle_guard);
    if (s.idle_since == since) --s.idle;
    counted = false;
  }
  bool counted = false;
  uint64_t since = 0;
};

// Polling units take turns until at most `keep` are left; when nobody's poll has changed for long, it is a
// deadlock.
void run_polling(Shared& s, std::vector<std::unique_ptr<Unit>>& polling, size_t keep) {
  uint64_t seen = s.progress;
  unsigned fruitless = 0;
  Idle idle;
  while (polling.size() > keep && !s.failed) {
    for (size_t i = 0; i < polling.size() && !s.failed;) {
      const Outcome outcome = run_unit(*polling[i]);
      if (outcome == Outcome::Polling && ++i) continue;
      if (outcome == Outcome::Ended) end_unit(*polling[i]);
      retire(std::move(polling[i]), outcome == Outcome::Failed);
      polling.erase(polling.begin() + std::ptrdiff_t(i));
    }
    fruitless = s.progress == seen ? fruitless + 1 : 0;
    seen = s.progress;
    if (fruitless > kFruitlessRounds) idle.at(s, seen);
    else idle.leave(s);
    if (s.all_idle(seen) && !polling.empty()) describe_deadlock(*polling[0]);
    sched_yield();
  }
  idle.leave(s);
}

void work(Shared& s) {
  sanitizer::Quiet quiet;
  std::vector<std::unique_ptr<Unit>> polling;
  std::unique_ptr<Unit> own[kReuse ? 1 : 3];  // in turn, so that neighbours are different threads
  uint64_t number;
  const unsigned resident = s.launch->resident;
  for (size_t turn = 0; !s.failed; ++turn) {
    if (resident) run_polling(s, polling, resident - 1);
    if (s.failed || !next_unit(s, number)) break;
    auto& u = own[turn % std::size(own)];
    if (!u) u = pool.take();
    u->launch = &s;
    u->main_stack = {};
    u->main_identity = sanitizer::identity();
    start_unit(*u, number);
    const Outcome outcome = run_unit(*u);
    if (outcome == Outcome::Polling) polling.push_back(std::move(u));
    else if (outcome == Outcome::Ended) end_unit(*u);
  }
  for (auto& u : own)
    if (u) retire(std::move(u), s.failed);
  run_polling(s, polling, 0);
  for (auto& p : polling) retire(std::move(p), true);
  sanitizer::acquire(&s.ended);
  --s.workers;
}

unsigned workers_for(const Launch& l, uint64_t units) {
  if (l.workers) return unsigned(std::min<uint64_t>(l.workers, units));
  const uint64_t threads = units * l.cluster * l.block[0] * l.block[1] * l.block[2];
  // Random must be repeatable, and a small grid is done before a host thread has started; one thread counts the
  // residents.
  if (l.schedule == Schedule::Random || threads < 4096 || l.resident) return 1;
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
#if !defined(__SANITIZE_ADDRESS__) && !defined(EMULATOR_TSAN)
  FaultHandler handler;  // the sanitizers have their own
#endif
  const unsigned workers = workers_for(l, s.units);
  s.workers = workers;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < workers; ++i) others.emplace_back([&s] { work(s); });
  work(s);
  for (auto& t : others) t.join();
  return s.failed ? 1 : 0;
}

}  // namespace emulator
