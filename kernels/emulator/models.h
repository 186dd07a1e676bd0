// What kernels/ptx/ calls instead of an instruction, when compiled for the host.
#pragma once
#include <cstddef>
#include <cstdint>

#include "emulator/kernel.h"
#include "emulator/number.h"

namespace emulator {

// ---- shared memory: a 32-bit address is the block's rank in its cluster << 24 | offset
uint32_t shared_address(const void* p);
unsigned char* shared_pointer(uint32_t address, size_t bytes, const char* what);
// Fails unless [p, p + bytes) lies in this block's shared memory and p is aligned.
void check_shared(const void* p, size_t bytes, size_t align, const char* what);
void check_aligned(const void* p, size_t align, const char* what);

// ---- flags between blocks: an acquire load; a thread that sees the same value again lets others run
unsigned poll(const unsigned* p);

// ---- cp.async: `valid` of `bytes` are copied, the rest is zero
void cp_async(void* shared, const void* global, unsigned bytes, unsigned valid);
void cp_async_commit();
void cp_async_wait(unsigned groups_left);

// ---- tensor cores, one warp
void ldmatrix(uint32_t* r, unsigned count, bool transposed, const void* row, int line);
void stmatrix(const uint32_t* r, unsigned count, bool transposed, void* row, int line);
void mma_m16n8k16(Number n, float* d, const uint32_t* a, const uint32_t* b, int line);
void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, int line);

}  // namespace emulator
