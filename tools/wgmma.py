#!/usr/bin/env python3
"""Writes kernels/ptx/wgmma.cuh: one asm statement for every width N, which fixes the operand numbers."""

from pathlib import Path

WIDTHS = range(8, 257, 8)

HEAD = """\
// wgmma: D (64, N) (+)= A (64, 16) B (16, N) by a warpgroup, f32 accumulators, N = 8, 16, .. 256.
// Written by tools/wgmma.py.
//
// Thread l of the warpgroup holds d[i] = D(16 (l / 32) + l % 32 / 4 + 8 (i / 2 % 2),
// 8 (i / 4) + 2 (l % 4) + i % 2). A from registers: a[i] as in ptx/mma.cuh, rows by warp.
// A and B in shared memory are described by a start address, two strides and the swizzle's span:
//   K-major (rows, 16), K contiguous: rows of `span` bytes, 8-row groups `stride` bytes apart;
//     the next 16 of K lie 32 bytes further.
//   MN-major (16, rows), rows contiguous (TransA or TransB = 1): 8 rows of K of `span` bytes make a
//     group, groups `stride` bytes apart along K; the next span / 2 of M or N lie `leading` further.
#pragma once
#include "ptx/convert.cuh"
#include "ptx/registers.cuh"
#include "ptx/shared.cuh"

namespace ptx {

// Offsets in bytes; span 128, 64 or 32. A tile starts at a multiple of 8 spans.
__device__ inline uint64_t wgmma_descriptor(Smem tile, uint32_t leading, uint32_t stride,
                                            uint32_t span) {
  const uint64_t layout = span == 128 ? 1 : span == 64 ? 2 : 3;
  return uint64_t((tile.address & 0x3FFFF) >> 4) | uint64_t(leading >> 4) << 16 |
         uint64_t(stride >> 4) << 32 | layout << 62;
}
// Rows of 128 bytes, K contiguous.
__device__ inline uint64_t wgmma_descriptor_k(Smem tile) {
  return wgmma_descriptor(tile, 16, 1024, 128);
}
// K rows of 128 bytes, M or N contiguous; `chunk` bytes to the next 64 of M or N.
__device__ inline uint64_t wgmma_descriptor_mn(Smem tile, uint32_t chunk) {
  return wgmma_descriptor(tile, chunk, 1024, 128);
}

#ifdef __CUDACC__
// Before the first wgmma, and after registers of its operands were written.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All but the last N groups are done.
template <int N>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

"""

BODY = """\
// NUMBERS: of the accumulators; the numbers after them are those of the other operands.
#define WGMMA_SS(N, TYPE, NUMBERS, A, B, P, TA, TB, ...)                                         \\
  asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, %" #P ", 0;\\n"                                  \\
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NUMBERS      \\
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\\n}"                            \\
               : __VA_ARGS__                                                                     \\
               : "l"(a), "l"(b), "r"(int(accumulate)), "n"(TransA), "n"(TransB))
#define WGMMA_RS(N, TYPE, NUMBERS, A0, A1, A2, A3, B, P, TB, ...)                                \\
  asm volatile("{\\n.reg .pred p;\\nsetp.ne.b32 p, %" #P ", 0;\\n"                                  \\
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NUMBERS      \\
               "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\\n}"        \\
               : __VA_ARGS__                                                                     \\
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),       \\
                 "n"(TransB))

"""

FUNCTIONS = """\
// A and B in shared memory; Trans = 1: that operand is MN-major.
template <class T, int N, int TransA = 0, int TransB = 0>
__device__ inline void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "8, 16, .. 256 columns");
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  if constexpr (Same<T, bf16>) {
    WGMMA_SS_ALL("bf16")
  } else {
    WGMMA_SS_ALL("f16")
  }
}
// A in registers.
template <class T, int N, int TransB = 0>
__device__ inline void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                                bool accumulate) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "8, 16, .. 256 columns");
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  if constexpr (Same<T, bf16>) {
    WGMMA_RS_ALL("bf16")
  } else {
    WGMMA_RS_ALL("f16")
  }
}
#else
inline void wgmma_fence() {}
inline void wgmma_commit(int line = __builtin_LINE()) { emulator::wgmma_commit(line); }
template <int N>
inline void wgmma_wait(int line = __builtin_LINE()) { emulator::wgmma_wait(N, line); }
template <class T, int N, int TransA = 0, int TransB = 0>
inline void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate,
                     int line = __builtin_LINE()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "8, 16, .. 256 columns");
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  constexpr auto number = Same<T, bf16> ? emulator::Number::Bf16 : emulator::Number::F16;
  emulator::wgmma(number, N, d, nullptr, a, b, accumulate, TransA, TransB, line);
}
template <class T, int N, int TransB = 0>
inline void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
                     int line = __builtin_LINE()) {
  static_assert(N % 8 == 0 && N >= 8 && N <= 256, "8, 16, .. 256 columns");
  static_assert(Same<T, bf16> || Same<T, f16>, "a 16-bit type");
  constexpr auto number = Same<T, bf16> ? emulator::Number::Bf16 : emulator::Number::F16;
  emulator::wgmma(number, N, d, a, 0, b, accumulate, false, TransB, line);
}
#endif
}  // namespace ptx
"""


def operand_macros():
    """Numbers and constraints of the first n accumulators, each on top of the four before."""
    lines = []
    for n in range(4, 129, 4):
        numbers = ",".join(f"%{i}" for i in range(n - 4, n))
        operands = ", ".join(f'"+f"(d[{i}])' for i in range(n - 4, n))
        if n == 4:
            lines.append(f'#define WGMMA_N4 "{numbers}"')
            lines.append(f"#define WGMMA_D4 {operands}")
        else:
            lines.append(f'#define WGMMA_N{n} WGMMA_N{n - 4} ",{numbers}"')
            lines.append(f"#define WGMMA_D{n} WGMMA_D{n - 4}, {operands}")
    return "\n".join(lines) + "\n"


def chain(name, operands):
    lines = [f"#define {name}_ALL(TYPE)"]
    for n in WIDTHS:
        r = n // 2  # accumulators of a thread
        numbers = ", ".join(str(r + i) for i in range(operands))
        lines.append(
            f"  {'else ' if n > 8 else ''}if constexpr (N == {n}) {name}"
            f"({n}, TYPE, WGMMA_N{r}, \\\n    {numbers}, WGMMA_D{r});"
        )
    return " \\\n".join(lines) + "\n"


def main():
    text = HEAD + BODY + operand_macros() + "\n" + chain("WGMMA_SS", 5) + chain("WGMMA_RS", 7)
    text += "\n" + FUNCTIONS
    Path(__file__).resolve().parents[1].joinpath("kernels/ptx/wgmma.cuh").write_text(text)


if __name__ == "__main__":
    main()
