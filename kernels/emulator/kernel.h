// The CUDA language for the host compiler. NOTES.md says what is modelled and what is not.
#pragma once
#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

#include "emulator/launch.h"
#include "emulator/thread.h"
#include "emulator/atomics.h"
#include "emulator/intrinsics.h"
#include "emulator/warp.h"

inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(line); }
inline void __threadfence() { emulator::fence(); }
inline void __threadfence_block() { emulator::fence(); }
inline void __nanosleep(unsigned) { emulator::yield(); }
[[noreturn]] inline void __trap() { emulator::fail("__trap"); }

template <class T>
inline T __ldg(const T* p) { return *p; }
