// Blocks of a cluster: their barrier, each other's shared memory, leaving. Part of scheduler.cpp.
#pragma once
#include "emulator/barriers.h"
#include "emulator/models.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

void open_cluster_if_full(Unit& u) {
  ClusterBarrier& c = u.cluster;
  if (c.arrived == 0 || c.arrived < u.live) return;
  c.arrived = 0, ++c.phase;
  c.opened_relaxed = c.relaxed, c.relaxed = false;
  for (Fiber* f : c.waiting) wake(u, f);
  c.waiting.clear();
}

// The last thread of a block ends while others of its cluster run: an arrival that is still to come at one of its
// mbarriers would be theirs.
void check_arrivals(const Block& b) {
  for (const uint32_t at : b.mbarriers) {
    const auto* m = reinterpret_cast<const Mbarrier*>(b.shared + at);
    if (m->missing > 0 && m->missing < int(m->count))
      failf("the block leaves its cluster while %d of %u arrivals at its mbarrier at %u are still to come",
            m->missing, unsigned(m->count), at);
  }
}

// What the current thread, which ends, still owes to the others.
void check_leaving(Unit& u, const Fiber* f) {
  const ClusterBarrier& c = u.cluster;
  if (f->cluster_line)
    failf("the thread ends between barrier.cluster.arrive (line %d) and its wait", f->cluster_line);
  if (c.arrived)
    failf("the thread leaves its cluster while others have arrived at barrier.cluster (line %d)", c.line);
  const Block& b = u.blocks[f->rank];
  if (b.live > 1) return;
  for (unsigned i = 1; i < 16; ++i)
    if (b.named[i].arrived)
      failf("the block ends with %u of %u threads at barrier %u (line %d)", b.named[i].arrived,
            b.named[i].threads, i, b.named[i].line);
  if (u.live > 1) check_arrivals(b);
}

}  // namespace

void cluster_arrive(Order order, int line) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  Unit& u = *t->unit;
  Fiber* f = t->fiber;
  ClusterBarrier& c = u.cluster;
  if (f->cluster_line)
    failf("barrier.cluster.arrive (line %d): this thread arrived in line %d and has not waited since", line,
          f->cluster_line);
  if (u.live < u.fibers.size())
    failf("barrier.cluster.arrive (line %d): a thread of the cluster has already left", line);
  if (order == Order::Release) {
    f->unpublished_store = f->unfenced_init = 0;
    sanitizer::release(&c);
  } else {
    if (f->unpublished_store)
      failf("barrier.cluster.arrive.relaxed (line %d) does not publish the st.shared::cluster of line %d",
            line, f->unpublished_store);
    if (f->unfenced_init)
      failf("barrier.cluster.arrive.relaxed (line %d) does not publish the mbarrier.init of line %d "
            "(fence.mbarrier_init missing)", line, f->unfenced_init);
    c.relaxed = true;
  }
  f->cluster_line = c.line = line;
  f->cluster_phase = c.phase + 1;
  ++c.arrived;
  open_cluster_if_full(u);
}

void cluster_wait(int line) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  Fiber* f = t->fiber;
  ClusterBarrier& c = t->unit->cluster;
  if (!f->cluster_line)
    failf("barrier.cluster.wait (line %d) without barrier.cluster.arrive", line);
  if (c.phase < f->cluster_phase) {
    c.waiting.push_back(f);
    wait_here("barrier.cluster", line);
  }
  f->cluster_line = 0;
  f->sees_cluster = !c.opened_relaxed;  // the next phase cannot open before this thread arrives
  sanitizer::acquire(&c);
}

uint32_t cluster_rank() { return here()->rank; }
uint32_t cluster_blocks() { return uint32_t(here()->unit->blocks.size()); }

unsigned char* cluster_load(uint32_t address, unsigned bytes, int line) {
  const Thread* t = here();
  unsigned char* p = shared_pointer(address, bytes, "ld.shared::cluster");
  check_aligned(p, bytes, "ld.shared::cluster");
  if (address >> 24 != t->rank && !t->fiber->sees_cluster)
    failf("ld.shared::cluster (line %d): the last cluster barrier was relaxed, so what block %u wrote need "
          "not be visible", line, address >> 24);
  return p;
}

unsigned char* cluster_store(uint32_t address, unsigned bytes, int line) {
  const Thread* t = here();
  unsigned char* p = shared_pointer(address, bytes, "st.shared::cluster");
  check_aligned(p, bytes, "st.shared::cluster");
  if (address >> 24 != t->rank) t->fiber->unpublished_store = line;
  return p;
}

}  // namespace emulator
