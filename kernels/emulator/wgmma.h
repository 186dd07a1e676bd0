// wgmma: D (64, N) (+)= A (64, 16) B (16, N) by a warpgroup, asynchronous. Part of scheduler.cpp.
// A thread does not wait where it issues: the product exists when the last of the 128 has come.
#pragma once
#include "emulator/models.h"
#include "emulator/tensor_map.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

// ---- operands in shared memory

struct Operand {
  uint32_t block, start, leading, stride, span;  // bytes; block: rank << 24
  bool mn_major;
  unsigned rows;  // of M or N
};

Operand operand(const Product& p, uint64_t descriptor, bool mn_major, unsigned rows) {
  const uint32_t layout = uint32_t(descriptor >> 62);
  const uint32_t span = layout == 1 ? 128 : layout == 2 ? 64 : layout == 3 ? 32 : 0;
  auto bytes = [descriptor](unsigned bit) { return uint32_t(descriptor >> bit & 0x3FFF) << 4; };
  return {p.rank << 24, bytes(0), bytes(16), bytes(32), span, mn_major, rows};
}

// Shared address of the 16-byte piece j. K-major: row j / 2, half j % 2 of its 16 values.
// MN-major: k = j / (rows / 8), 8 rows from j % (rows / 8) * 8.
uint32_t piece_address(const Operand& o, unsigned j) {
  if (!o.mn_major) {
    const unsigned r = j / 2;
    return o.block | swizzled(o.start + r / 8 * o.stride + r % 8 * o.span + j % 2 * 16, o.span);
  }
  const unsigned k = j / (o.rows / 8), b = j % (o.rows / 8) * 16;
  return o.block | swizzled(o.start + b / o.span * o.leading + b % o.span + k / 8 * o.stride +
                                k % 8 * o.span, o.span);
}

unsigned char* piece(Unit& u, const Operand& o, unsigned j) {
  const uint32_t a = piece_address(o, j), offset = a & 0xFFFFFF;
  if (offset + 16 > launch_of(u).shared_bytes)
    failf("wgmma: an operand reaches shared address %u of %zu", offset, launch_of(u).shared_bytes);
  return u.blocks[a >> 24].shared + offset;
}

// The operand as (16, rows) with k outermost; A as (rows, 16).
template <Number Type>
void gather(Unit& u, const Operand& o, float* to, bool k_outermost) {
  for (unsigned j = 0; j < o.rows * 2; ++j) {
    uint16_t v[8];
    __builtin_memcpy(v, piece(u, o, j), 16);
    const unsigned k = o.mn_major ? j / (o.rows / 8) : j % 2 * 8;
    const unsigned r = o.mn_major ? j % (o.rows / 8) * 8 : j / 2;
    const unsigned step_k = o.mn_major ? 0 : 1, step_r = o.mn_major ? 1 : 0;
    for (unsigned e = 0; e < 8; ++e) {
      const unsigned row = r + e * step_r, at = k + e * step_k;
      to[k_outermost ? at * o.rows + row : row * 16 + at] = f32_of(Type, v[e]);
    }
  }
}

template <Number Type>
void gather_registers(const Product& p, float* to) {
  for (unsigned l = 0; l < 128; ++l)
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned r = l / 32 * 16 + l % 32 / 4 + i % 2 * 8, c = l % 4 * 2 + i / 2 * 8;
      to[r * 16 + c] = f32_of(Type, uint16_t(p.a_registers[l][i]));
      to[r * 16 + c + 1] = f32_of(Type, uint16_t(p.a_registers[l][i] >> 16));
    }
}

// ---- the product

typedef float Vector8 __attribute__((vector_size(32), may_alias, aligned(4)));

// d (64, n) += a (64, 16) b (16, n), eight rows and columns at a time.
inline __attribute__((always_inline)) void multiply_tiles(float* d, const float* a, const float* b,
                                                          unsigned n) {
  for (unsigned r = 0; r < 64; r += 8)
    for (unsigned c = 0; c < n; c += 8) {
      Vector8 sum[8];
      for (unsigned i = 0; i < 8; ++i) sum[i] = *(const Vector8*)(d + (r + i) * n + c);
      for (unsigned k = 0; k < 16; ++k) {
        const Vector8 row = *(const Vector8*)(b + k * n + c);
        for (unsigned i = 0; i < 8; ++i) sum[i] += a[(r + i) * 16 + k] * row;
      }
      for (unsigned i = 0; i < 8; ++i) *(Vector8*)(d + (r + i) * n + c) = sum[i];
    }
}
__attribute__((target("avx2"))) void multiply_avx2(float* d, const float* a, const float* b,
                                                   unsigned n) {
  multiply_tiles(d, a, b, n);
}
void multiply_sse(float* d, const float* a, const float* b, unsigned n) {
  multiply_tiles(d, a, b, n);
}

template <Number Type>
void compute(Unit& u, const Product& p) {
  alignas(32) float a[64 * 16], b[16 * 256];
  const unsigned n = p.d->n;
  float* d = p.d->values.data();
  if (p.a_in_registers) gather_registers<Type>(p, a);
  else gather<Type>(u, operand(p, p.a, p.transpose_a, 64), a, false);
  gather<Type>(u, operand(p, p.b, p.transpose_b, n), b, true);
  if (!p.accumulate) __builtin_memset(d, 0, size_t(64) * n * sizeof(float));
  static const bool avx2 = __builtin_cpu_supports("avx2");
  avx2 ? multiply_avx2(d, a, b, n) : multiply_sse(d, a, b, n);
}

// Thread l holds columns 8 (i / 4) + 2 (l % 4) + i % 2 of rows (l / 32) 16 + l % 32 / 4 + 8 (i / 2 % 2).
template <class F>
void each_register(Accumulator& d, F f) {
  for (unsigned l = 0; l < 128; ++l) {
    float* base = d.values.data() + size_t(l / 32 * 16 + l % 32 / 4) * d.n + l % 4 * 2;
    for (unsigned i = 0; i < d.n / 2; ++i)
      f(d.registers[l][i], base[size_t(i / 2 % 2 * 8) * d.n + i / 4 * 8 + i % 2]);
  }
}

// ---- order

#if defined(EMULATOR_TSAN)
void touch(Unit& u, const Product& p) {
  auto all = [&](const Operand& o) {
    for (unsigned j = 0; j < o.rows * 2; ++j) sanitizer::read(piece(u, o, j), 16);
  };
  if (!p.a_in_registers) all(operand(p, p.a, p.transpose_a, 64));
  all(operand(p, p.b, p.transpose_b, p.d->n));
}
#endif

// The tensor core: reads after its issue; a second one after what was fenced for the asynchronous proxy.
void report_reads(Unit& u, Warpgroup& w, const Product& p) {
#if defined(EMULATOR_TSAN)
  const auto me = sanitizer::identity();
  for (unsigned i = 0; i < (sanitizer::proxies() ? 2 : 1); ++i) {
    sanitizer::become(w.identity[i]);
    sanitizer::acquire(i ? &u.proxy : &w.issued);
    touch(u, p);
    sanitizer::release(&w.done[p.group % 64]);
  }
  sanitizer::become(me);
#else
  (void)u, (void)w, (void)p;
#endif
}

void run_product(Unit& u, Warpgroup& w, Product& p) {
  if (p.done) return;
  p.done = true;
  report_reads(u, w, p);
  if (p.bf16) compute<Number::Bf16>(u, p);
  else compute<Number::F16>(u, p);
  Accumulator* d = p.d;
  if (--d->products) return;
  each_register(*d, [](float& r, float v) { r = v; });
  for (auto& a : w.accumulators)
    if (a.get() == d) {
      std::swap(a, w.accumulators.back());
      return w.accumulators.pop_back();
    }
}

Accumulator* accumulator(Warpgroup& w, const WarpgroupStep& s, unsigned n, bool poison) {
  for (auto& a : w.accumulators)
    if (a->registers[0] == s.d[0] && a->n == n) return a.get();
  w.accumulators.push_back(std::make_unique<Accumulator>());
  Accumulator* d = w.accumulators.back().get();
  d->n = n;
  d->values.resize(size_t(64) * n);
  for (unsigned l = 0; l < 128; ++l) d->registers[l] = s.d[l];
  const float nan = __builtin_bit_cast(float, 0xFFFFFFFFu);
  each_register(*d, [=](float& r, float& v) { v = r, r = poison ? nan : r; });
  return d;
}

// ---- the steps all 128 threads take in the same order

struct Passing {
  Unit& u;
  Warpgroup& w;
  WarpgroupStep& s;
  unsigned thread;
  bool last;
};

Passing pass(const char* op, uint64_t key, int line) {
  Thread* t = here();
  Unit& u = *t->unit;
  const unsigned in_block = t->fiber->index % u.block_threads, thread = in_block % 128;
  Warpgroup& w = u.warpgroups[t->rank * ((u.block_threads + 127) / 128) + in_block / 128];
  if (w.live != 128) failf("%s: all 128 threads of the warpgroup must call it, %u are left", op, w.live);
  const size_t at = size_t(w.next_step[thread]++ - w.first_step);
  if (at == w.steps.size()) {
    if (w.unused_steps.empty()) w.unused_steps.push_back(std::make_unique<WarpgroupStep>());
    w.steps.push_back(std::move(w.unused_steps.back()));
    w.unused_steps.pop_back();
    w.steps.back()->arrived = 0;
  }
  WarpgroupStep& s = *w.steps[at];
  if (s.arrived && (s.key != key || std::strcmp(s.op, op)))
    failf("divergent warpgroup: %s (line %d) where other threads call %s (line %d)%s", op, line, s.op,
          s.line, std::strcmp(s.op, op) ? "" : " with other operands");
  s.op = op, s.key = key, s.line = line;
  return {u, w, s, thread, ++s.arrived == 128};
}

void retire_step(Warpgroup& w) {
  w.unused_steps.push_back(std::move(w.steps.front()));
  w.steps.pop_front();
  ++w.first_step;
}

}  // namespace

void wgmma(Number type, unsigned n, float* d, const uint32_t* a_registers, uint64_t a, uint64_t b,
           bool accumulate, bool transpose_a, bool transpose_b, int line) {
  sanitizer::Quiet quiet;
  if (b >> 62 == 0 || (!a_registers && a >> 62 == 0))
    fail("wgmma: a descriptor without swizzle is not modelled");
  const uint64_t flags = n * 32 + (type == Number::Bf16) * 16 + accumulate * 8 +
                         (a_registers != nullptr) * 4 + transpose_a * 2 + transpose_b;
  const uint64_t key = (a * 0x9E3779B97F4A7C15ull ^ b) * 0xD1B54A32D192ED03ull ^ flags;
  Passing now = pass("wgmma", key, line);
  sanitizer::release(&now.w.issued);
  now.s.d[now.thread] = d, now.s.a[now.thread] = a_registers;
  if (!now.last) return;
  const Schedule schedule = schedule_of(now.u);
  auto p = std::make_unique<Product>();
  p->d = accumulator(now.w, now.s, n, schedule != Schedule::Early);
  ++p->d->products;
  p->bf16 = type == Number::Bf16, p->transpose_a = transpose_a, p->transpose_b = transpose_b;
  p->a_in_registers = a_registers != nullptr, p->accumulate = accumulate;
  p->a = a, p->b = b, p->rank = here()->rank, p->group = now.w.group;
  if (a_registers) __builtin_memcpy(p->a_registers, now.s.a, sizeof p->a_registers);
  const bool first = now.w.products.empty() || now.w.products.back()->done;  // in order
  if (schedule == Schedule::Early || (first && at_once(now.u))) run_product(now.u, now.w, *p);
  now.w.products.push_back(std::move(p));
  retire_step(now.w);
}

void wgmma_commit(int line) {
  sanitizer::Quiet quiet;
  Passing now = pass("wgmma.commit_group", 0, line);
  if (!now.last) return;
  ++now.w.group;
  retire_step(now.w);
}

void wgmma_wait(unsigned groups_left, int line) {
  sanitizer::Quiet quiet;
  Passing now = pass("wgmma.wait_group", groups_left, line);
  unsigned finished = 0;
  now.s.finished[now.thread] = &finished;
  if (!now.last) {
    now.s.waiting.push_back(here()->fiber);
    wait_here("wgmma.wait_group", line);
  } else {
    auto& products = now.w.products;
    while (!products.empty() && products.front()->group + groups_left < now.w.group) {
      run_product(now.u, now.w, *products.front());
      products.pop_front();
    }
    const unsigned done = now.w.group > groups_left ? now.w.group - groups_left : 0;
    for (unsigned l = 0; l < 128; ++l) *now.s.finished[l] = done;
    for (Fiber* f : now.s.waiting) wake(now.u, f);
    now.s.waiting.clear();
    retire_step(now.w);
  }
  if (finished) sanitizer::acquire(&now.w.done[(finished - 1) % 64]);
}

// ---- what a thread may not leave behind

namespace {

const char* left_behind(Unit& u, const Fiber* f) {
  if (f->has_in_flight && !f->in_flight->stores.empty())
    return "the thread ends while its bulk stores may still read shared memory "
           "(cp.async.bulk.wait_group missing)";
  const unsigned thread = f->index % u.block_threads;
  const Warpgroup& w = u.warpgroups[f->rank * ((u.block_threads + 127) / 128) + thread / 128];
  if (!w.products.empty()) return "the thread ends with wgmma in flight (wgmma.wait_group missing)";
  return nullptr;
}

}  // namespace

}  // namespace emulator
