// Warp-wide functions: lanes meet, the last one to come works for all. Part of scheduler.cpp.
#pragma once
#include "emulator/unit.h"

namespace emulator {

namespace {

void finish_meeting(Unit& u, Warp& w, Meeting& m, const Fiber* last) {
  const unsigned lanes = m.arrived, warp = unsigned(&w - u.warps.data());
  m.arrived = 0;
  w.begun &= ~(1u << (&m - w.meetings));
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

namespace {

// The meeting of these lanes that has begun, or a free one. Lanes of another mask may be on the way
// to theirs at the same time.
Meeting& meeting_of(Warp& w, unsigned mask) {
  for (unsigned rest = w.begun; rest; rest &= rest - 1) {
    Meeting& m = w.meetings[__builtin_ctz(rest)];
    if (m.mask == mask) return m;
  }
  const unsigned free = unsigned(__builtin_ctz(~w.begun));  // at most 31 have begun without this lane
  w.begun |= 1u << free;
  w.meetings[free].arrived = 0;
  return w.meetings[free];
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
  Meeting& m = meeting_of(w, mask);
  if (m.arrived && (m.line != line || std::strcmp(m.op, op)))
    failf("divergent warp: %s (line %d) while other lanes of the mask %08x wait at %s (line %d)", op,
          line, mask, m.op, m.line);
  m.op = op, m.line = line, m.mask = mask, m.run = run;
  m.arrived |= 1u << t->lane;
  w.args[t->lane] = arg;
  if (m.arrived != (mask & w.live)) return wait_here(op, line);
  finish_meeting(u, w, m, t->fiber);
  if (schedule_of(u) == Schedule::Random) yield();
}

void sync_warp(int line, unsigned mask) {
  Thread* t = here();
  Warp& w = t->unit->warps[t->fiber->warp];
  void* token = &w.args[__builtin_ctz(mask | 1u << 31)];  // a name for ThreadSanitizer
  sanitizer::release(token);
  meet("__syncwarp", line, mask, nullptr, nullptr);
  sanitizer::acquire(token);
}

bool elect_one(int line) {
  const Thread* t = here();
  meet("elect.sync", line, 0xFFFFFFFFu, nullptr, nullptr, Meets::Whole);
  const Schedule s = schedule_of(*t->unit);  // always the same lane, but which is nobody's business
  const unsigned leader = s == Schedule::Early ? 0 : s == Schedule::Late ? 31 : launch_of(*t->unit).seed % 32;
  return t->lane == leader;
}

unsigned live_lanes() {
  Thread* t = here();
  return t->unit->warps[t->fiber->warp].live;
}

}  // namespace emulator
