// CUDA's atomic functions: relaxed, as on the device; blocks may run on several host threads.
#pragma once
#include <cstdint>

namespace emulator {

template <class T, class Change>
inline T atomically(T* p, Change change) {
  T old, wanted;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  do wanted = change(old);
  while (!__atomic_compare_exchange(p, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}

}  // namespace emulator

template <class T>
inline T atomicAdd(T* p, T v) { return emulator::atomically(p, [v](T x) { return T(x + v); }); }
template <class T>
inline T atomicSub(T* p, T v) { return emulator::atomically(p, [v](T x) { return T(x - v); }); }
template <class T>
inline T atomicMax(T* p, T v) { return emulator::atomically(p, [v](T x) { return x > v ? x : v; }); }
template <class T>
inline T atomicMin(T* p, T v) { return emulator::atomically(p, [v](T x) { return x < v ? x : v; }); }
template <class T>
inline T atomicAnd(T* p, T v) { return emulator::atomically(p, [v](T x) { return T(x & v); }); }
template <class T>
inline T atomicOr(T* p, T v) { return emulator::atomically(p, [v](T x) { return T(x | v); }); }
template <class T>
inline T atomicExch(T* p, T v) { return emulator::atomically(p, [v](T) { return v; }); }
template <class T>
inline T atomicCAS(T* p, T expected, T v) {
  return emulator::atomically(p, [=](T x) { return x == expected ? v : x; });
}
// Counts to `last`, then wraps to 0.
inline unsigned atomicInc(unsigned* p, unsigned last) {
  return emulator::atomically(p, [last](unsigned x) { return x >= last ? 0 : x + 1; });
}
