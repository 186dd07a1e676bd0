// Shared memory addresses and cp.async. Part of scheduler.cpp.
#pragma once
#include "emulator/engine.h"
#include "emulator/models.h"

namespace emulator {

uint32_t shared_address(const void* p) {
  Thread* t = here();
  const size_t bytes = launch_of(*t->unit).shared_bytes;
  const std::ptrdiff_t offset = static_cast<const unsigned char*>(p) - t->shared;
  if (offset < 0 || size_t(offset) > bytes)
    failf("the pointer is not into this block's %zu bytes of shared memory", bytes);
  return t->rank << 24 | uint32_t(offset);
}

unsigned char* shared_pointer(uint32_t address, size_t bytes, const char* what) {
  Unit& u = *here()->unit;
  const size_t size = launch_of(u).shared_bytes, offset = address & 0xFFFFFF;
  const unsigned rank = address >> 24;
  if (rank >= u.blocks.size()) failf("%s: no block %u in this cluster", what, rank);
  if (rank != here()->rank && u.cluster.phase == 0)
    failf("%s: block %u of this cluster may not run yet (cluster barrier missing)", what, rank);
  if (u.blocks[rank].live == 0) failf("%s: block %u of this cluster has ended", what, rank);
  if (offset + bytes > size)
    failf("%s: shared address %zu + %zu bytes is outside the block's %zu", what, offset, bytes, size);
  return u.blocks[rank].shared + offset;
}

void check_aligned(const void* p, size_t align, const char* what) {
  if (uintptr_t(p) % align) failf("%s: address %p is not a multiple of %zu", what, p, align);
}

unsigned char* own_shared(uint32_t address, size_t bytes, const char* what) {
  if (address >> 24 != here()->rank) failf("%s: the address is of another block", what);
  unsigned char* p = shared_pointer(address, bytes, what);
  check_aligned(p, bytes, what);
  return p;
}

namespace {

void happen(Unit& u, InFlight& mine, const InFlight::Copy& c) {
  as_engine(u, &mine.issued, [&] {
    if (c.valid) sanitizer::read(c.from, c.valid);
    sanitizer::write(c.to, c.bytes);
    if (c.valid) __builtin_memcpy(c.to, c.from, c.valid);
    if (c.valid < c.bytes) __builtin_memset(c.to + c.valid, 0, c.bytes - c.valid);
    sanitizer::release(&mine.copied[c.group % InFlight::kCopyTokens]);
  });
}

}  // namespace

void cp_async(uint32_t shared, const void* global, unsigned bytes, unsigned valid) {
  unsigned char* to = own_shared(shared, bytes, "cp.async");
  if (valid) check_aligned(global, bytes, "cp.async");
  sanitizer::Quiet quiet;
  Thread* t = here();
  InFlight& mine = in_flight(t->fiber);
  sanitizer::release(&mine.issued);
  const InFlight::Copy copy{to, global, bytes, valid, mine.copy_group};
  if (at_once(*t->unit)) return happen(*t->unit, mine, copy);
  __builtin_memset(to, 0xFF, bytes);  // in flight: the old content is gone
  mine.copies.push_back(copy);
}

void cp_async_commit() { in_flight(here()->fiber).copy_group++; }

void cp_async_wait(unsigned groups_left) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  InFlight& mine = in_flight(t->fiber);
  size_t kept = 0;
  for (const auto& c : mine.copies) {
    if (c.group + groups_left < mine.copy_group) happen(*t->unit, mine, c);
    else mine.copies[kept++] = c;
  }
  mine.copies.resize(kept);
  for (unsigned i = 1; i <= InFlight::kCopyTokens && groups_left + i <= mine.copy_group; ++i)
    sanitizer::acquire(&mine.copied[(mine.copy_group - groups_left - i) % InFlight::kCopyTokens]);
}

}  // namespace emulator
