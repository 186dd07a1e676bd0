// What the sanitizers must be told: which fiber runs, and what orders one thread after another.
// Built with -DEMULATOR_TSAN the emulator itself is not instrumented (only the kernel is, with
// -fsanitize=thread); it reports the kernel's accesses that happen inside of its models.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#endif

namespace emulator::sanitizer {

#if defined(EMULATOR_TSAN)
using Identity = void*;  // a thread to ThreadSanitizer
// Whether accesses of the asynchronous proxy are told a second time, by who is ordered by fences of it alone. Its fences are
// one place for all threads, which orders more than it should: races are looked for without, missing fences with it.
inline bool proxies() {
  static const bool on = std::getenv("EMULATOR_PROXIES") != nullptr;
  return on;
}
inline Identity new_identity() { return __tsan_create_fiber(0); }
inline void end_identity(Identity i) { __tsan_destroy_fiber(i); }
inline Identity identity() { return __tsan_get_current_fiber(); }
inline void become(Identity i) { __tsan_switch_to_fiber(i, __tsan_switch_to_fiber_no_sync); }
// What happened before `release(p)` is visible after `acquire(p)`.
inline void release(const void* p) { __tsan_release(const_cast<void*>(p)); }
inline void acquire(const void* p) { __tsan_acquire(const_cast<void*>(p)); }
// Accesses of the emulator's own state, which is not the kernel's business.
struct Quiet {
  Quiet() { begin(); }
  ~Quiet() { end(); }
  Quiet(const Quiet&) = delete;
  static void begin() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  static void end() { AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0); }
};
inline void read(const void* p, size_t n) { __tsan_read_range(const_cast<void*>(p), n); }
inline void write(const void* p, size_t n) { __tsan_write_range(const_cast<void*>(p), n); }
#else
using Identity = void*;
inline Identity new_identity() { return nullptr; }
inline void end_identity(Identity) {}
inline Identity identity() { return nullptr; }
inline void become(Identity) {}
inline void release(const void*) {}
inline void acquire(const void*) {}
struct Quiet {
  Quiet() {}
  ~Quiet() {}
  Quiet(const Quiet&) = delete;
};
#if defined(__SANITIZE_ADDRESS__)
inline void read(const void* p, size_t n) {
  for (size_t i = 0; i < n; ++i) (void)static_cast<const volatile char*>(p)[i];
}
inline void write(const void* p, size_t n) { read(p, n); }
#else
inline void read(const void*, size_t) {}
inline void write(const void*, size_t) {}
#endif
#endif

}  // namespace emulator::sanitizer

namespace emulator {
// Stacks and shared memory pass from one thread or block to the next. To ThreadSanitizer that would
// order them, or look like a race: there, a thread keeps its stack and a block gets new memory.
#if defined(EMULATOR_TSAN)
constexpr bool kReuse = false;
#else
constexpr bool kReuse = true;
#endif
}  // namespace emulator

namespace emulator::sanitizer {

// The stacks a switch leaves and enters, for AddressSanitizer.
struct StackRange {
  const void* bottom = nullptr;
  size_t bytes = 0;
};
#if defined(__SANITIZE_ADDRESS__)
inline void before_switch(void** fake, StackRange to) {
  __sanitizer_start_switch_fiber(fake, to.bottom, to.bytes);
}
inline StackRange after_switch(void* fake) {
  StackRange from;
  __sanitizer_finish_switch_fiber(fake, &from.bottom, &from.bytes);
  return from;
}
inline void allow(const void* p, size_t n) { ASAN_UNPOISON_MEMORY_REGION(p, n); }
inline void forbid(const void* p, size_t n) { ASAN_POISON_MEMORY_REGION(p, n); }
#else
inline void before_switch(void**, StackRange) {}
inline StackRange after_switch(void*) { return {}; }
inline void allow(const void*, size_t) {}
inline void forbid(const void*, size_t) {}
#endif

}  // namespace emulator::sanitizer
