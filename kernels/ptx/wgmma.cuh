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

// NUMBERS: of the accumulators; the numbers after them are those of the other operands.
#define WGMMA_SS(N, TYPE, NUMBERS, A, B, P, TA, TB, ...)                                         \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                  \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NUMBERS      \
               "}, %" #A ", %" #B ", p, 1, 1, %" #TA ", %" #TB ";\n}"                            \
               : __VA_ARGS__                                                                     \
               : "l"(a), "l"(b), "r"(int(accumulate)), "n"(TransA), "n"(TransB))
#define WGMMA_RS(N, TYPE, NUMBERS, A0, A1, A2, A3, B, P, TB, ...)                                \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P ", 0;\n"                                  \
               "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" NUMBERS      \
               "}, {%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", p, 1, 1, %" #TB ";\n}"        \
               : __VA_ARGS__                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),       \
                 "n"(TransB))

#define WGMMA_N4 "%0,%1,%2,%3"
#define WGMMA_D4 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_N8 WGMMA_N4 ",%4,%5,%6,%7"
#define WGMMA_D8 WGMMA_D4, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_N12 WGMMA_N8 ",%8,%9,%10,%11"
#define WGMMA_D12 WGMMA_D8, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define WGMMA_N16 WGMMA_N12 ",%12,%13,%14,%15"
#define WGMMA_D16 WGMMA_D12, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define WGMMA_N20 WGMMA_N16 ",%16,%17,%18,%19"
#define WGMMA_D20 WGMMA_D16, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define WGMMA_N24 WGMMA_N20 ",%20,%21,%22,%23"
#define WGMMA_D24 WGMMA_D20, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define WGMMA_N28 WGMMA_N24 ",%24,%25,%26,%27"
#define WGMMA_D28 WGMMA_D24, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define WGMMA_N32 WGMMA_N28 ",%28,%29,%30,%31"
#define WGMMA_D32 WGMMA_D28, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_N36 WGMMA_N32 ",%32,%33,%34,%35"
#define WGMMA_D36 WGMMA_D32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define WGMMA_N40 WGMMA_N36 ",%36,%37,%38,%39"
#define WGMMA_D40 WGMMA_D36, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define WGMMA_N44 WGMMA_N40 ",%40,%41,%42,%43"
#define WGMMA_D44 WGMMA_D40, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define WGMMA_N48 WGMMA_N44 ",%44,%45,%46,%47"
#define WGMMA_D48 WGMMA_D44, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define WGMMA_N52 WGMMA_N48 ",%48,%49,%50,%51"
#define WGMMA_D52 WGMMA_D48, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define WGMMA_N56 WGMMA_N52 ",%52,%53,%54,%55"
#define WGMMA_D56 WGMMA_D52, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define WGMMA_N60 WGMMA_N56 ",%56,%57,%58,%59"
#define WGMMA_D60 WGMMA_D56, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define WGMMA_N64 WGMMA_N60 ",%60,%61,%62,%63"
#define WGMMA_D64 WGMMA_D60, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define WGMMA_N68 WGMMA_N64 ",%64,%65,%66,%67"
#define WGMMA_D68 WGMMA_D64, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define WGMMA_N72 WGMMA_N68 ",%68,%69,%70,%71"
#define WGMMA_D72 WGMMA_D68, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define WGMMA_N76 WGMMA_N72 ",%72,%73,%74,%75"
#define WGMMA_D76 WGMMA_D72, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define WGMMA_N80 WGMMA_N76 ",%76,%77,%78,%79"
#define WGMMA_D80 WGMMA_D76, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define WGMMA_N84 WGMMA_N80 ",%80,%81,%82,%83"
#define WGMMA_D84 WGMMA_D80, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define WGMMA_N88 WGMMA_N84 ",%84,%85,%86,%87"
#define WGMMA_D88 WGMMA_D84, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define WGMMA_N92 WGMMA_N88 ",%88,%89,%90,%91"
#define WGMMA_D92 WGMMA_D88, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define WGMMA_N96 WGMMA_N92 ",%92,%93,%94,%95"
#define WGMMA_D96 WGMMA_D92, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define WGMMA_N100 WGMMA_N96 ",%96,%97,%98,%99"
#define WGMMA_D100 WGMMA_D96, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define WGMMA_N104 WGMMA_N100 ",%100,%101,%102,%103"
#define WGMMA_D104 WGMMA_D100, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define WGMMA_N108 WGMMA_N104 ",%104,%105,%106,%107"
#define WGMMA_D108 WGMMA_D104, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define WGMMA_N112 WGMMA_N108 ",%108,%109,%110,%111"
#define WGMMA_D112 WGMMA_D108, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define WGMMA_N116 WGMMA_N112 ",%112,%113,%114,%115"
#define WGMMA_D116 WGMMA_D112, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define WGMMA_N120 WGMMA_N116 ",%116,%117,%118,%119"
#define WGMMA_D120 WGMMA_D116, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define WGMMA_N124 WGMMA_N120 ",%120,%121,%122,%123"
#define WGMMA_D124 WGMMA_D120, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define WGMMA_N128 WGMMA_N124 ",%124,%125,%126,%127"
#define WGMMA_D128 WGMMA_D124, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

#define WGMMA_SS_ALL(TYPE) \
  if constexpr (N == 8) WGMMA_SS(8, TYPE, WGMMA_N4, \
    4, 5, 6, 7, 8, WGMMA_D4); \
  else if constexpr (N == 16) WGMMA_SS(16, TYPE, WGMMA_N8, \
    8, 9, 10, 11, 12, WGMMA_D8); \
  else if constexpr (N == 24) WGMMA_SS(24, TYPE, WGMMA_N12, \
    12, 13, 14, 15, 16, WGMMA_D12); \
  else if constexpr (N == 32) WGMMA_SS(32, TYPE, WGMMA_N16, \
    16, 17, 18, 19, 20, WGMMA_D16); \
  else if constexpr (N == 40) WGMMA_SS(40, TYPE, WGMMA_N20, \
    20, 21, 22, 23, 24, WGMMA_D20); \
  else if constexpr (N == 48) WGMMA_SS(48, TYPE, WGMMA_N24, \
    24, 25, 26, 27, 28, WGMMA_D24); \
  else if constexpr (N == 56) WGMMA_SS(56, TYPE, WGMMA_N28, \
    28, 29, 30, 31, 32, WGMMA_D28); \
  else if constexpr (N == 64) WGMMA_SS(64, TYPE, WGMMA_N32, \
    32, 33, 34, 35, 36, WGMMA_D32); \
  else if constexpr (N == 72) WGMMA_SS(72, TYPE, WGMMA_N36, \
    36, 37, 38, 39, 40, WGMMA_D36); \
  else if constexpr (N == 80) WGMMA_SS(80, TYPE, WGMMA_N40, \
    40, 41, 42, 43, 44, WGMMA_D40); \
  else if constexpr (N == 88) WGMMA_SS(88, TYPE, WGMMA_N44, \
    44, 45, 46, 47, 48, WGMMA_D44); \
  else if constexpr (N == 96) WGMMA_SS(96, TYPE, WGMMA_N48, \
    48, 49, 50, 51, 52, WGMMA_D48); \
  else if constexpr (N == 104) WGMMA_SS(104, TYPE, WGMMA_N52, \
    52, 53, 54, 55, 56, WGMMA_D52); \
  else if constexpr (N == 112) WGMMA_SS(112, TYPE, WGMMA_N56, \
    56, 57, 58, 59, 60, WGMMA_D56); \
  else if constexpr (N == 120) WGMMA_SS(120, TYPE, WGMMA_N60, \
    60, 61, 62, 63, 64, WGMMA_D60); \
  else if constexpr (N == 128) WGMMA_SS(128, TYPE, WGMMA_N64, \
    64, 65, 66, 67, 68, WGMMA_D64); \
  else if constexpr (N == 136) WGMMA_SS(136, TYPE, WGMMA_N68, \
    68, 69, 70, 71, 72, WGMMA_D68); \
  else if constexpr (N == 144) WGMMA_SS(144, TYPE, WGMMA_N72, \
    72, 73, 74, 75, 76, WGMMA_D72); \
  else if constexpr (N == 152) WGMMA_SS(152, TYPE, WGMMA_N76, \
    76, 77, 78, 79, 80, WGMMA_D76); \
  else if constexpr (N == 160) WGMMA_SS(160, TYPE, WGMMA_N80, \
    80, 81, 82, 83, 84, WGMMA_D80); \
  else if constexpr (N == 168) WGMMA_SS(168, TYPE, WGMMA_N84, \
    84, 85, 86, 87, 88, WGMMA_D84); \
  else if constexpr (N == 176) WGMMA_SS(176, TYPE, WGMMA_N88, \
    88, 89, 90, 91, 92, WGMMA_D88); \
  else if constexpr (N == 184) WGMMA_SS(184, TYPE, WGMMA_N92, \
    92, 93, 94, 95, 96, WGMMA_D92); \
  else if constexpr (N == 192) WGMMA_SS(192, TYPE, WGMMA_N96, \
    96, 97, 98, 99, 100, WGMMA_D96); \
  else if constexpr (N == 200) WGMMA_SS(200, TYPE, WGMMA_N100, \
    100, 101, 102, 103, 104, WGMMA_D100); \
  else if constexpr (N == 208) WGMMA_SS(208, TYPE, WGMMA_N104, \
    104, 105, 106, 107, 108, WGMMA_D104); \
  else if constexpr (N == 216) WGMMA_SS(216, TYPE, WGMMA_N108, \
    108, 109, 110, 111, 112, WGMMA_D108); \
  else if constexpr (N == 224) WGMMA_SS(224, TYPE, WGMMA_N112, \
    112, 113, 114, 115, 116, WGMMA_D112); \
  else if constexpr (N == 232) WGMMA_SS(232, TYPE, WGMMA_N116, \
    116, 117, 118, 119, 120, WGMMA_D116); \
  else if constexpr (N == 240) WGMMA_SS(240, TYPE, WGMMA_N120, \
    120, 121, 122, 123, 124, WGMMA_D120); \
  else if constexpr (N == 248) WGMMA_SS(248, TYPE, WGMMA_N124, \
    124, 125, 126, 127, 128, WGMMA_D124); \
  else if constexpr (N == 256) WGMMA_SS(256, TYPE, WGMMA_N128, \
    128, 129, 130, 131, 132, WGMMA_D128);
#define WGMMA_RS_ALL(TYPE) \
  if constexpr (N == 8) WGMMA_RS(8, TYPE, WGMMA_N4, \
    4, 5, 6, 7, 8, 9, 10, WGMMA_D4); \
  else if constexpr (N == 16) WGMMA_RS(16, TYPE, WGMMA_N8, \
    8, 9, 10, 11, 12, 13, 14, WGMMA_D8); \
  else if constexpr (N == 24) WGMMA_RS(24, TYPE, WGMMA_N12, \
    12, 13, 14, 15, 16, 17, 18, WGMMA_D12); \
  else if constexpr (N == 32) WGMMA_RS(32, TYPE, WGMMA_N16, \
    16, 17, 18, 19, 20, 21, 22, WGMMA_D16); \
  else if constexpr (N == 40) WGMMA_RS(40, TYPE, WGMMA_N20, \
    20, 21, 22, 23, 24, 25, 26, WGMMA_D20); \
  else if constexpr (N == 48) WGMMA_RS(48, TYPE, WGMMA_N24, \
    24, 25, 26, 27, 28, 29, 30, WGMMA_D24); \
  else if constexpr (N == 56) WGMMA_RS(56, TYPE, WGMMA_N28, \
    28, 29, 30, 31, 32, 33, 34, WGMMA_D28); \
  else if constexpr (N == 64) WGMMA_RS(64, TYPE, WGMMA_N32, \
    32, 33, 34, 35, 36, 37, 38, WGMMA_D32); \
  else if constexpr (N == 72) WGMMA_RS(72, TYPE, WGMMA_N36, \
    36, 37, 38, 39, 40, 41, 42, WGMMA_D36); \
  else if constexpr (N == 80) WGMMA_RS(80, TYPE, WGMMA_N40, \
    40, 41, 42, 43, 44, 45, 46, WGMMA_D40); \
  else if constexpr (N == 88) WGMMA_RS(88, TYPE, WGMMA_N44, \
    44, 45, 46, 47, 48, 49, 50, WGMMA_D44); \
  else if constexpr (N == 96) WGMMA_RS(96, TYPE, WGMMA_N48, \
    48, 49, 50, 51, 52, 53, 54, WGMMA_D48); \
  else if constexpr (N == 104) WGMMA_RS(104, TYPE, WGMMA_N52, \
    52, 53, 54, 55, 56, 57, 58, WGMMA_D52); \
  else if constexpr (N == 112) WGMMA_RS(112, TYPE, WGMMA_N56, \
    56, 57, 58, 59, 60, 61, 62, WGMMA_D56); \
  else if constexpr (N == 120) WGMMA_RS(120, TYPE, WGMMA_N60, \
    60, 61, 62, 63, 64, 65, 66, WGMMA_D60); \
  else if constexpr (N == 128) WGMMA_RS(128, TYPE, WGMMA_N64, \
    64, 65, 66, 67, 68, 69, 70, WGMMA_D64); \
  else if constexpr (N == 136) WGMMA_RS(136, TYPE, WGMMA_N68, \
    68, 69, 70, 71, 72, 73, 74, WGMMA_D68); \
  else if constexpr (N == 144) WGMMA_RS(144, TYPE, WGMMA_N72, \
    72, 73, 74, 75, 76, 77, 78, WGMMA_D72); \
  else if constexpr (N == 152) WGMMA_RS(152, TYPE, WGMMA_N76, \
    76, 77, 78, 79, 80, 81, 82, WGMMA_D76); \
  else if constexpr (N == 160) WGMMA_RS(160, TYPE, WGMMA_N80, \
    80, 81, 82, 83, 84, 85, 86, WGMMA_D80); \
  else if constexpr (N == 168) WGMMA_RS(168, TYPE, WGMMA_N84, \
    84, 85, 86, 87, 88, 89, 90, WGMMA_D84); \
  else if constexpr (N == 176) WGMMA_RS(176, TYPE, WGMMA_N88, \
    88, 89, 90, 91, 92, 93, 94, WGMMA_D88); \
  else if constexpr (N == 184) WGMMA_RS(184, TYPE, WGMMA_N92, \
    92, 93, 94, 95, 96, 97, 98, WGMMA_D92); \
  else if constexpr (N == 192) WGMMA_RS(192, TYPE, WGMMA_N96, \
    96, 97, 98, 99, 100, 101, 102, WGMMA_D96); \
  else if constexpr (N == 200) WGMMA_RS(200, TYPE, WGMMA_N100, \
    100, 101, 102, 103, 104, 105, 106, WGMMA_D100); \
  else if constexpr (N == 208) WGMMA_RS(208, TYPE, WGMMA_N104, \
    104, 105, 106, 107, 108, 109, 110, WGMMA_D104); \
  else if constexpr (N == 216) WGMMA_RS(216, TYPE, WGMMA_N108, \
    108, 109, 110, 111, 112, 113, 114, WGMMA_D108); \
  else if constexpr (N == 224) WGMMA_RS(224, TYPE, WGMMA_N112, \
    112, 113, 114, 115, 116, 117, 118, WGMMA_D112); \
  else if constexpr (N == 232) WGMMA_RS(232, TYPE, WGMMA_N116, \
    116, 117, 118, 119, 120, 121, 122, WGMMA_D116); \
  else if constexpr (N == 240) WGMMA_RS(240, TYPE, WGMMA_N120, \
    120, 121, 122, 123, 124, 125, 126, WGMMA_D120); \
  else if constexpr (N == 248) WGMMA_RS(248, TYPE, WGMMA_N124, \
    124, 125, 126, 127, 128, 129, 130, WGMMA_D124); \
  else if constexpr (N == 256) WGMMA_RS(256, TYPE, WGMMA_N128, \
    128, 129, 130, 131, 132, 133, 134, WGMMA_D128);

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
