// The copy engine: a thread of its own to ThreadSanitizer. Part of scheduler.cpp.
#pragma once
#include "emulator/unit.h"

namespace emulator {

namespace {

// `f` as the copy engine, after what `token` was released by.
template <class F>
void as_engine(Unit& u, const void* token, F f) {
#if defined(EMULATOR_TSAN)
  const auto engine = u.engines[u.next_engine++ % 16];
  const auto me = sanitizer::identity();
  sanitizer::become(engine);
  sanitizer::acquire(token);
  f();
  sanitizer::become(me);
#else
  (void)u, (void)token, f();
#endif
}

}  // namespace

}  // namespace emulator
