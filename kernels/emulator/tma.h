// Bulk copies: tensor boxes and plain ranges, between global and shared memory. Part of scheduler.cpp.
#pragma once
#include "emulator/engine.h"
#include "emulator/models.h"
#include "emulator/tensor_map.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

struct Place {  // of a box in its tensor
  int64_t at[5];
};

TensorMap read_map(const void* map, unsigned rank) {
  check_aligned(map, 64, "tensor map");
  TensorMap m;
  __builtin_memcpy(&m, map, sizeof m);
  if (m.magic != TensorMap::kMagic) fail("TMA: this is no tensor map (cuTensorMapEncodeTiled)");
  if (m.rank != rank) failf("TMA: the map has rank %u, the instruction %u", m.rank, rank);
  if (m.swizzle && m.box[0] * m.element_bytes != m.swizzle)
    failf("TMA: an inner box of %u bytes under a swizzle of %u is not modelled",
          m.box[0] * m.element_bytes, m.swizzle);
  return m;
}

uint32_t box_bytes(const TensorMap& m) {
  return uint32_t(m.element_bytes) * m.box[0] * m.box[1] * m.box[2] * m.box[3] * m.box[4];
}

// Calls f(offset in the box, global address or null outside, first byte inside, bytes inside) for
// every 16-byte piece.
template <class F>
void each_piece(const TensorMap& m, const Place& c, F f) {
  const uint32_t row_bytes = uint32_t(m.box[0]) * m.element_bytes, rows = box_bytes(m) / row_bytes;
  for (uint32_t r = 0; r < rows; ++r) {
    uint32_t rest = r;
    bool inside = true;
    int64_t offset = 0;
    for (unsigned i = 1; i < 5; ++i) {
      const int64_t x = c.at[i] + rest % m.box[i];
      rest /= m.box[i];
      inside = inside && x >= 0 && uint64_t(x) < m.dim[i];
      offset += x * int64_t(m.stride[i]);
    }
    const int64_t begin = c.at[0] * m.element_bytes, end = int64_t(m.dim[0]) * m.element_bytes;
    for (uint32_t b = 0; b < row_bytes; b += 16) {
      const int64_t at = begin + b;
      const int64_t lo = at < 0 ? -at : 0, hi = at + 16 > end ? end - at : 16;
      const uint32_t box_offset = r * row_bytes + b;
      if (!inside || hi <= lo) f(box_offset, nullptr, 0u, 0u);
      else f(box_offset, reinterpret_cast<unsigned char*>(m.address) + offset + at + lo,
             uint32_t(lo), uint32_t(hi - lo));
    }
  }
}

// Queues a load of `by`, or does it at once.
template <class F>
void issue_load(Unit& u, Fiber* by, F load) {
  const void* token = &in_flight(by).issued;
  sanitizer::release(token);
  auto operation = [&u, token, load] { as_engine(u, token, load); };
  if (at_once(u)) operation();
  else u.pending.push_back(operation);
}

void queue_store(Unit& u, Fiber* by, std::function<void()> store) {
  InFlight& mine = in_flight(by);
  sanitizer::release(&mine.issued);
  auto happen = [&u, by, store] { as_engine(u, &by->in_flight->issued, store); };
  if (at_once(u)) happen(), mine.stores.push_back({nullptr, mine.store_group});
  else mine.stores.push_back({happen, mine.store_group});
}

unsigned char* block_shared(Unit& u, uint32_t address) {
  return u.blocks[address >> 24].shared + (address & 0xFFFFFF);
}

void load_box(Unit& u, const TensorMap& m, const Place& c, uint32_t to) {
  each_piece(m, c, [&](uint32_t offset, const unsigned char* from, uint32_t lo, uint32_t n) {
    unsigned char* piece = block_shared(u, swizzled(to + offset, m.swizzle));
    sanitizer::write(piece, 16);
    if (n < 16) __builtin_memset(piece, 0, 16);
    if (n) sanitizer::read(from, n);
    if (n == 16) __builtin_memcpy(piece, from, 16);
    else if (n) __builtin_memcpy(piece + lo, from, n);
  });
}

void store_box(Unit& u, const TensorMap& m, const Place& c, uint32_t from) {
  each_piece(m, c, [&](uint32_t offset, unsigned char* to, uint32_t lo, uint32_t n) {
    const unsigned char* piece = block_shared(u, swizzled(from + offset, m.swizzle));
    sanitizer::read(piece, 16);
    if (n) sanitizer::write(to, n), __builtin_memcpy(to, piece + lo, n);
  });
}

// The engine reads what threads wrote: each of them must have fenced it.
void check_fenced(Unit& u, uint32_t from, uint32_t bytes) {
  const unsigned char* begin = block_shared(u, from);
  for (Fiber& f : u.fibers) {
    if (f.done || !f.has_in_flight) continue;
    for (const unsigned char* row : f.in_flight->unfenced)
      if (row >= begin && row < begin + bytes)
        failf("the bulk store reads what thread %u wrote with stmatrix without fence.proxy.async",
              f.index % u.block_threads);
  }
}

// To ThreadSanitizer: a reader that is ordered only after fence.proxy.async and other copies.
template <class F>
void as_proxy_reader(Unit& u, const void* done, F touch) {
#if defined(EMULATOR_TSAN)
  if (sanitizer::proxies()) as_engine(u, &u.proxy, [&] { touch(), sanitizer::release(done); });
#else
  (void)u, (void)done, (void)touch;
#endif
}

}  // namespace

void tensor_load(uint32_t to, const void* map, uint32_t barrier, const int* at, unsigned rank,
                 uint32_t ranks, int line) {
  sanitizer::Quiet quiet;
  (void)line;
  Thread* t = here();
  Unit& u = *t->unit;
  const TensorMap m = read_map(map, rank);
  const uint32_t bytes = box_bytes(m), own = t->rank;
  if (to % 128) failf("TMA load: shared address %u is no multiple of 128", to & 0xFFFFFF);
  Place c{};
  for (unsigned i = 0; i < rank; ++i) c.at[i] = at[i];
  if (ranks == 0) ranks = 1u << own;
  for (uint32_t r = 0; r < 32; ++r) {
    if (!(ranks >> r & 1)) continue;
    const uint32_t base = r << 24, to_there = base | (to & 0xFFFFFF);
    unsigned char* p = shared_pointer(to_there, bytes, "TMA load");
    shared_pointer(base | (barrier & 0xFFFFFF), 8, "TMA load: mbarrier");
    if (schedule_of(u) != Schedule::Early) __builtin_memset(p, 0xFF, bytes);  // in flight
  }
  issue_load(u, t->fiber, [&u, m, c, to, barrier, bytes, ranks] {
    for (uint32_t r = 0; r < 32; ++r) {
      if (!(ranks >> r & 1)) continue;
      const uint32_t base = r << 24, done = base | (barrier & 0xFFFFFF);
      load_box(u, m, c, base | (to & 0xFFFFFF));
      sanitizer::release(block_shared(u, done)), sanitizer::release(&u.proxy);
      complete_bytes(u, done, bytes);
    }
  });
  if (schedule_of(u) == Schedule::Random) yield();
}

void tensor_store(const void* map, uint32_t from, const int* at, unsigned rank, int line) {
  sanitizer::Quiet quiet;
  (void)line;
  Thread* t = here();
  Unit& u = *t->unit;
  const TensorMap m = read_map(map, rank);
  if (from % 128) failf("TMA store: shared address %u is no multiple of 128", from & 0xFFFFFF);
  shared_pointer(from, box_bytes(m), "TMA store");
  check_fenced(u, from, box_bytes(m));
  Place c{};
  for (unsigned i = 0; i < rank; ++i) c.at[i] = at[i];
  queue_store(u, t->fiber, [&u, m, c, from, f = t->fiber] {
    store_box(u, m, c, from);
    sanitizer::release(&f->in_flight->stored);
    as_proxy_reader(u, &f->in_flight->stored, [&] {
      each_piece(m, c, [&](uint32_t offset, const unsigned char*, uint32_t, uint32_t) {
        sanitizer::read(block_shared(u, swizzled(from + offset, m.swizzle)), 16);
      });
    });
  });
}

void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint32_t ranks) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  Unit& u = *t->unit;
  if (bytes % 16 || to % 16) failf("cp.async.bulk: %u bytes to %u; multiples of 16", bytes, to);
  check_aligned(from, 16, "cp.async.bulk");
  if (ranks == 0) ranks = 1u << t->rank;
  for (uint32_t r = 0; r < 32; ++r) {
    if (!(ranks >> r & 1)) continue;
    unsigned char* p = shared_pointer(r << 24 | (to & 0xFFFFFF), bytes, "cp.async.bulk");
    if (schedule_of(u) != Schedule::Early) __builtin_memset(p, 0xFF, bytes);
  }
  issue_load(u, t->fiber, [&u, to, from, bytes, barrier, ranks] {
    for (uint32_t r = 0; r < 32; ++r) {
      if (!(ranks >> r & 1)) continue;
      const uint32_t base = r << 24, done = base | (barrier & 0xFFFFFF);
      unsigned char* p = block_shared(u, base | (to & 0xFFFFFF));
      sanitizer::read(from, bytes), sanitizer::write(p, bytes);
      __builtin_memcpy(p, from, bytes);
      sanitizer::release(block_shared(u, done)), sanitizer::release(&u.proxy);
      complete_bytes(u, done, bytes);
    }
  });
  if (schedule_of(u) == Schedule::Random) yield();
}

void bulk_store(void* to, uint32_t from, uint32_t bytes) {
  sanitizer::Quiet quiet;
  Thread* t = here();
  Unit& u = *t->unit;
  if (bytes % 16 || from % 16) failf("cp.async.bulk: %u bytes from %u; multiples of 16", bytes, from);
  check_aligned(to, 16, "cp.async.bulk");
  shared_pointer(from, bytes, "cp.async.bulk");
  check_fenced(u, from, bytes);
  queue_store(u, t->fiber, [&u, to, from, bytes, f = t->fiber] {
    const unsigned char* p = block_shared(u, from);
    sanitizer::read(p, bytes), sanitizer::write(to, bytes);
    __builtin_memcpy(to, p, bytes);
    sanitizer::release(&f->in_flight->stored);
    as_proxy_reader(u, &f->in_flight->stored, [&] { sanitizer::read(p, bytes); });
  });
}

void bulk_commit() { in_flight(here()->fiber).store_group++; }

void bulk_wait(unsigned groups_left) {
  sanitizer::Quiet quiet;
  InFlight& mine = in_flight(here()->fiber);
  size_t kept = 0;
  for (auto& s : mine.stores) {
    if (s.group + groups_left >= mine.store_group) {
      if (&mine.stores[kept] != &s) mine.stores[kept] = std::move(s);
      ++kept;
    } else if (s.happen) {
      s.happen();
    }
  }
  mine.stores.resize(kept);
  sanitizer::acquire(&mine.stored);
}

void fence_proxy() {
  sanitizer::Quiet quiet;
  Thread* t = here();
  if (t->fiber->has_in_flight) t->fiber->in_flight->unfenced.clear();
  sanitizer::release(&t->unit->proxy);
}

}  // namespace emulator
