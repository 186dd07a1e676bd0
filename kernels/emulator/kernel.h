// The CUDA language for the host compiler: qualifiers, vector types, built-in variables, barrier.
#pragma once
#include "emulator/launch.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct float2 { float x, y; };
struct uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulator {

// The thread that is running now.
struct Thread {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  unsigned char* shared;  // dynamic shared memory of the block, 0xFF (NaN) at its start
};
extern __thread Thread* here;

// Stops the launch with a message that names block and thread.
[[noreturn]] void fail(const char* message);

// Waits for all threads of the block that have not ended; `line` tells one barrier from another.
void barrier(int line);

}  // namespace emulator

#define threadIdx (emulator::here->thread)
#define blockIdx (emulator::here->block)
#define blockDim (emulator::here->block_dim)
#define gridDim (emulator::here->grid_dim)
inline void __syncthreads(int line = __builtin_LINE()) { emulator::barrier(line); }

// Compiled with -ffp-contract=off: every operation rounds once.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return __builtin_sqrtf(a); }
inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
inline float __int2float_rn(int a) { return float(a); }
inline float __uint2float_rn(unsigned a) { return float(a); }
inline int __float2int_rz(float a) { return int(a); }
inline float floorf(float a) { return __builtin_floorf(a); }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
inline unsigned __float_as_uint(float a) { return __builtin_bit_cast(unsigned, a); }
inline float __uint_as_float(unsigned a) { return __builtin_bit_cast(float, a); }
