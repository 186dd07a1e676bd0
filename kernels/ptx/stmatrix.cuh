// stmatrix: fragments into 8 x 8 matrices of 16-bit elements in shared memory; the inverse of
// ldmatrix, Hopper only.
#pragma once
#include "ptx/shared.cuh"

namespace ptx {
#ifdef __CUDACC__
__device__ inline void stmatrix_x1(Smem row, const uint32_t (&r)[1]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(row.address),
               "r"(r[0])
               : "memory");
}
__device__ inline void stmatrix_x2(Smem row, const uint32_t (&r)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(row.address),
               "r"(r[0]), "r"(r[1])
               : "memory");
}
__device__ inline void stmatrix_x4(Smem row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
               ::"r"(row.address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ inline void stmatrix_x1_trans(Smem row, const uint32_t (&r)[1]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(row.address),
               "r"(r[0])
               : "memory");
}
__device__ inline void stmatrix_x2_trans(Smem row, const uint32_t (&r)[2]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(row.address),
               "r"(r[0]), "r"(r[1])
               : "memory");
}
__device__ inline void stmatrix_x4_trans(Smem row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
               ::"r"(row.address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
#else
inline void stmatrix_x1(Smem row, const uint32_t (&r)[1], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 1, false, row.address, line);
}
inline void stmatrix_x2(Smem row, const uint32_t (&r)[2], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 2, false, row.address, line);
}
inline void stmatrix_x4(Smem row, const uint32_t (&r)[4], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 4, false, row.address, line);
}
inline void stmatrix_x1_trans(Smem row, const uint32_t (&r)[1], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 1, true, row.address, line);
}
inline void stmatrix_x2_trans(Smem row, const uint32_t (&r)[2], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 2, true, row.address, line);
}
inline void stmatrix_x4_trans(Smem row, const uint32_t (&r)[4], int line = __builtin_LINE()) {
  emulator::stmatrix(r, 4, true, row.address, line);
}
#endif
}  // namespace ptx
