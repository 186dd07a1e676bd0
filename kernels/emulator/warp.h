// Warp-wide functions: the lanes of the mask meet, the last one to come works for all.
#pragma once
#include <cstdint>
#include <cstring>

#include "emulator/thread.h"

namespace emulator {

// Runs once, with what each lane of `lanes` brought.
using Together = void (*)(void* const* args, unsigned lanes);

enum class Meets { Any /* lanes that ended are left out */, Whole /* all 32 must come */ };

// Waits for the lanes of `mask`; `op` and `line` must be the same for all of them.
void meet(const char* op, int line, unsigned mask, void* arg, Together run, Meets who = Meets::Any);
// As `meet`, and what they wrote before is visible to all of them afterwards.
void sync_warp(int line, unsigned mask);
// Lanes of this warp that have not ended.
unsigned live_lanes();
// Whether this lane is the one that elect.sync chooses among all 32.
bool elect_one(int line);

struct Shuffle {
  uint64_t in, out;
  int from;
};
inline void shuffle_all(void* const* args, unsigned lanes) {
  for (int i = 0; i < 32; ++i) {
    if (!(lanes >> i & 1)) continue;
    auto* to = static_cast<Shuffle*>(args[i]);
    // A lane that did not come has no value; the hardware's is undefined.
    to->out = lanes >> to->from & 1 ? static_cast<Shuffle*>(args[to->from])->in : ~uint64_t(0);
  }
}
template <class T>
inline T shuffle(const char* op, int line, unsigned mask, T value, int from) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
  Shuffle s{0, 0, from};
  std::memcpy(&s.in, &value, sizeof(T));
  meet(op, line, mask, &s, shuffle_all);
  std::memcpy(&value, &s.out, sizeof(T));
  return value;
}

struct Vote {
  unsigned in, out;
};
inline unsigned vote(const char* op, int line, unsigned mask, unsigned value, Together run) {
  Vote v{value, 0};
  meet(op, line, mask, &v, run);
  return v.out;
}
// `combine(so far, lane's value)` over the lanes, the same result for all.
template <class Combine>
inline void vote_all(void* const* args, unsigned lanes, unsigned start, Combine combine) {
  for (unsigned i = 0; i < 32; ++i)
    if (lanes >> i & 1) start = combine(start, static_cast<Vote*>(args[i])->in, i);
  for (unsigned i = 0; i < 32; ++i)
    if (lanes >> i & 1) static_cast<Vote*>(args[i])->out = start;
}
inline unsigned ballot(const char* op, int line, unsigned mask, bool p) {
  return vote(op, line, mask, p, [](void* const* args, unsigned lanes) {
    vote_all(args, lanes, 0, [](unsigned s, unsigned v, unsigned i) { return s | v << i; });
  });
}

}  // namespace emulator

inline unsigned __ballot_sync(unsigned mask, int p, int line = __builtin_LINE()) {
  return emulator::ballot("__ballot_sync", line, mask, p != 0);
}
inline int __any_sync(unsigned mask, int p, int line = __builtin_LINE()) {
  return emulator::ballot("__any_sync", line, mask, p != 0) != 0;
}
inline int __all_sync(unsigned mask, int p, int line = __builtin_LINE()) {
  return emulator::ballot("__all_sync", line, mask, p == 0) == 0;
}
inline unsigned __activemask() { return emulator::live_lanes(); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, int line = __builtin_LINE()) {
  emulator::sync_warp(line, mask);
}

template <class T>
inline T __shfl_sync(unsigned mask, T v, int from, int width = 32, int line = __builtin_LINE()) {
  const int first = int(emulator::here()->lane) & ~(width - 1);
  return emulator::shuffle("__shfl_sync", line, mask, v, first + (from & (width - 1)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32,
                        int line = __builtin_LINE()) {
  const int lane = int(emulator::here()->lane), from = lane - int(by);
  const int first = lane & ~(width - 1);
  return emulator::shuffle("__shfl_up_sync", line, mask, v, from < first ? lane : from);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32,
                          int line = __builtin_LINE()) {
  const int lane = int(emulator::here()->lane), from = lane + int(by);
  const int end = (lane & ~(width - 1)) + width;
  return emulator::shuffle("__shfl_down_sync", line, mask, v, from >= end ? lane : from);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32,
                         int line = __builtin_LINE()) {
  const int lane = int(emulator::here()->lane), from = lane ^ with;
  const int end = (lane & ~(width - 1)) + width;
  return emulator::shuffle("__shfl_xor_sync", line, mask, v, from >= end ? lane : from);
}

#define EMULATED_REDUCE(T, NAME, START, EXPRESSION)                                      \
  inline T NAME(unsigned mask, T value, int line = __builtin_LINE()) {                   \
    return T(emulator::vote(#NAME, line, mask, unsigned(value),                          \
                            [](void* const* args, unsigned lanes) {                      \
      emulator::vote_all(args, lanes, unsigned(START), [](unsigned s, unsigned v, unsigned) { \
        const T a = T(s), b = T(v);                                                      \
        return unsigned(EXPRESSION);                                                     \
      });                                                                                \
    }));                                                                                 \
  }
EMULATED_REDUCE(unsigned, __reduce_add_sync, 0, a + b)
EMULATED_REDUCE(unsigned, __reduce_min_sync, ~0u, a < b ? a : b)
EMULATED_REDUCE(unsigned, __reduce_max_sync, 0, a > b ? a : b)
EMULATED_REDUCE(int, __reduce_add_sync, 0, unsigned(a) + unsigned(b))
EMULATED_REDUCE(int, __reduce_min_sync, 0x7FFFFFFF, a < b ? a : b)
EMULATED_REDUCE(int, __reduce_max_sync, 0x80000000u, a > b ? a : b)
#undef EMULATED_REDUCE
