// Shared memory addresses and cp.async. Part of scheduler.cpp.
#pragma once
#include "emulator/models.h"
#include "emulator/unit.h"

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
void copy_now(unsigned char* to, const void* from, unsigned bytes) {
  if (from) __builtin_memcpy(to, from, bytes);
  else __builtin_memset(to, 0, bytes);
}
}  // namespace

void cp_async(uint32_t shared, const void* global, unsigned bytes, unsigned valid) {
  unsigned char* to = own_shared(shared, bytes, "cp.async");
  if (valid) check_aligned(global, bytes, "cp.async");
  sanitizer::write(to, bytes);  // this thread owns the bytes from now until its wait
  if (valid) sanitizer::read(global, valid);
  sanitizer::Quiet quiet;
  Thread* t = here();
  const void* from = valid ? global : nullptr;
  if (valid != bytes) __builtin_memset(to, 0, bytes), bytes = valid ? valid : bytes;
  if (at_once(*t->unit)) return copy_now(to, from, bytes);
  __builtin_memset(to, 0xFF, bytes);  // in flight: the old content is gone
  InFlight& mine = in_flight(t->fiber);
  mine.copies.push_back({to, from, bytes, mine.copy_group});
}

void cp_async_commit() { in_flight(here()->fiber).copy_group++; }

void cp_async_wait(unsigned groups_left) {
  sanitizer::Quiet quiet;
  InFlight& mine = in_flight(here()->fiber);
  size_t kept = 0;
  for (const auto& c : mine.copies) {
    if (c.group + groups_left < mine.copy_group) copy_now(c.to, c.from, c.bytes);
    else mine.copies[kept++] = c;
  }
  mine.copies.resize(kept);
}

}  // namespace emulator
