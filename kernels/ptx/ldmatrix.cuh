// ldmatrix: 8 x 8 matrices of 16-bit elements from shared memory into fragments.
// Lane 8 i + r brings the 16-byte address of row r of matrix i; lane l receives elements
// (l / 4, 2 (l % 4)) and the one to its right, of the transposed matrix with _trans.
#pragma once
#include "ptx/shared.cuh"

namespace ptx {
#ifdef __CUDACC__
__device__ inline void ldmatrix_x1(uint32_t (&r)[1], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(row.address)
               : "memory");
}
__device__ inline void ldmatrix_x2(uint32_t (&r)[2], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address)
               : "memory");
}
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address)
               : "memory");
}
__device__ inline void ldmatrix_x1_trans(uint32_t (&r)[1], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(row.address)
               : "memory");
}
__device__ inline void ldmatrix_x2_trans(uint32_t (&r)[2], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row.address)
               : "memory");
}
__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], Smem row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row.address)
               : "memory");
}
#else
inline void ldmatrix_x1(uint32_t (&r)[1], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 1, false, row.address, line);
}
inline void ldmatrix_x2(uint32_t (&r)[2], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 2, false, row.address, line);
}
inline void ldmatrix_x4(uint32_t (&r)[4], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 4, false, row.address, line);
}
inline void ldmatrix_x1_trans(uint32_t (&r)[1], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 1, true, row.address, line);
}
inline void ldmatrix_x2_trans(uint32_t (&r)[2], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 2, true, row.address, line);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], Smem row, int line = __builtin_LINE()) {
  emulator::ldmatrix(r, 4, true, row.address, line);
}
#endif
}  // namespace ptx
