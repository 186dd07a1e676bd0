// mbarriers and numbered barriers. Part of scheduler.cpp.
#pragma once
#include "emulator/models.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

// The word in shared memory. 0xFFFF as count is the content of memory nobody initialised.
struct Mbarrier {
  uint16_t count;
  int16_t missing;   // arrivals of this phase
  int32_t bytes_and_phase;  // bytes that have not arrived << 1 | parity of the phase
};
static_assert(sizeof(Mbarrier) == 8, "an mbarrier is a 64-bit word");

Mbarrier* mbarrier_at(uint32_t address, const char* what) {
  auto* m = reinterpret_cast<Mbarrier*>(shared_pointer(address, 8, what));
  check_aligned(m, 8, what);
  if (m->count == 0xFFFF) failf("%s: the mbarrier at %u is not initialised", what, address & 0xFFFFFF);
  return m;
}

// Wakes who waits for the phase that has just ended, if it has.
void settle(Unit& u, uint32_t address, Mbarrier* m) {
  if (m->missing != 0 || (m->bytes_and_phase >> 1) != 0) return;
  m->bytes_and_phase ^= 1;
  m->missing = int16_t(m->count);
  size_t kept = 0;
  for (const MbarrierWait& w : u.mbarrier_waits) {
    if (w.address == address) wake(u, w.fiber);
    else u.mbarrier_waits[kept++] = w;
  }
  u.mbarrier_waits.resize(kept);
}

std::string describe_mbarrier(Unit& u, uint32_t address) {
  const unsigned rank = address >> 24, offset = address & 0xFFFFFF;
  const auto* m = reinterpret_cast<const Mbarrier*>(u.blocks[rank].shared + offset);
  const int bytes = m->bytes_and_phase >> 1;
  std::string text = " mbarrier at shared offset " + std::to_string(offset) + " of block rank " +
                     std::to_string(rank) + ": phase " + std::to_string(m->bytes_and_phase & 1) +
                     ", " + std::to_string(m->missing) + " of " + std::to_string(m->count) +
                     " arrivals missing";
  if (bytes > 0) text += ", " + std::to_string(bytes) + " expected bytes have not arrived";
  if (bytes < 0) text += ", " + std::to_string(-bytes) + " bytes arrived that nobody expected";
  return text + ";";
}

// The copy engine's part: `bytes` have arrived.
void complete_bytes(Unit& u, uint32_t address, uint32_t bytes) {
  sanitizer::Quiet quiet;
  auto* m = reinterpret_cast<Mbarrier*>(u.blocks[address >> 24].shared + (address & 0xFFFFFF));
  m->bytes_and_phase -= int32_t(bytes) << 1;
  settle(u, address, m);
}

}  // namespace

void mbarrier_init(uint32_t barrier, unsigned count, int line) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  unsigned char* p = shared_pointer(barrier, 8, "mbarrier.init");
  check_aligned(p, 8, "mbarrier.init");
  if (count == 0 || count > 0x7FFF) failf("mbarrier.init: a count of %u", count);
  *reinterpret_cast<Mbarrier*>(p) = {uint16_t(count), int16_t(count), 0};
  t->fiber->unfenced_init = line;
  t->unit->blocks[t->rank].mbarriers.push_back(barrier & 0xFFFFFF);
}

void mbarrier_fence_init() { here()->fiber->unfenced_init = 0; }

void mbarrier_arrive(uint32_t barrier, int line) { mbarrier_arrive_expect(barrier, 0, line); }

void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes, int line) {
  sanitizer::Quiet quiet;
  Unit& u = *here()->unit;
  Mbarrier* m = mbarrier_at(barrier, "mbarrier.arrive");
  sanitizer::release(m);
  if (m->missing <= 0)
    failf("mbarrier.arrive (line %d): more arrivals than the %u the barrier at %u was made for", line,
          m->count, barrier & 0xFFFFFF);
  m->bytes_and_phase += int32_t(bytes) << 1;
  --m->missing;
  settle(u, barrier, m);
  if (schedule_of(u) == Schedule::Random) yield();
}

// ThreadSanitizer is told that it orders what came before, which is right for the slot that was read; what
// was written to the other block is not published, and that is checked here.
void mbarrier_arrive_cluster(uint32_t barrier, int line) {
  const Thread* t = here();
  if (barrier >> 24 != t->rank && t->fiber->unpublished_store)
    failf("mbarrier.arrive (line %d) at block %u of the cluster does not publish the st.shared::cluster of "
          "line %d", line, barrier >> 24, t->fiber->unpublished_store);
  mbarrier_arrive(barrier, line);
}

void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
  sanitizer::Quiet quiet;
  mbarrier_at(barrier, "mbarrier.expect_tx")->bytes_and_phase += int32_t(bytes) << 1;
}

bool mbarrier_test(uint32_t barrier, uint32_t parity) {
  sanitizer::Quiet quiet;
  Unit& u = *here()->unit;
  if (schedule_of(u) == Schedule::Random) yield();
  Mbarrier* m = mbarrier_at(barrier, "mbarrier.try_wait");
  if (uint32_t(m->bytes_and_phase & 1) == (parity & 1)) return false;
  sanitizer::acquire(m);
  return true;
}

void mbarrier_wait(uint32_t barrier, uint32_t parity, int line) {
  sanitizer::Quiet quiet;
  while (!mbarrier_test(barrier, parity)) {
    Thread* t = here();
    t->unit->mbarrier_waits.push_back({barrier, t->fiber});
    wait_here("mbarrier wait", line);
  }
}

// ---- barriers with a number

void named_barrier(int id, int threads, bool wait, int line) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  Unit& u = *t->unit;
  if (id < 1 || id > 15) failf("bar.sync: barrier %d; 1 to 15 are free, 0 is __syncthreads", id);
  if (threads <= 0 || threads % 32 || unsigned(threads) > u.block_threads)
    failf("bar.sync %d: %d threads; a multiple of 32, at most the block", id, threads);
  NamedBarrier& b = u.blocks[t->rank].named[id];
  if (!b.phase) b.phase = ++u.named_phases;
  if (b.threads && b.threads != unsigned(threads))
    failf("bar.sync %d: %d threads here (line %d), %u in line %d", id, threads, line, b.threads, b.line);
  unsigned& mine = t->fiber->named_phase[id];
  if (mine == b.phase)
    failf("bar.%s %d (line %d): this thread has arrived before and the barrier has not opened since",
          wait ? "sync" : "arrive", id, line);
  b.threads = unsigned(threads), b.line = line, mine = b.phase;
  sanitizer::release(&b);
  const bool last = ++b.arrived == b.threads;
  if (last) {
    b.arrived = 0, b.phase = ++u.named_phases;
    for (Fiber* f : b.waiting) wake(u, f);
    b.waiting.clear();
  } else if (wait) {
    b.waiting.push_back(t->fiber);
    wait_here("bar.sync", line);
  }
  if (wait) sanitizer::acquire(&b);
  if (last && schedule_of(u) == Schedule::Random) yield();
}

}  // namespace emulator
