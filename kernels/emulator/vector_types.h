// CUDA's vector types, with CUDA's alignment.
#pragma once

#define EMULATED_VECTORS(T, NAME, A2, A4)                                      \
  struct NAME##1 { T x; };                                                     \
  struct alignas(A2) NAME##2 { T x, y; };                                      \
  struct NAME##3 { T x, y, z; };                                               \
  struct alignas(A4) NAME##4 { T x, y, z, w; };                                \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                           \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                   \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }           \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

EMULATED_VECTORS(signed char, char, 2, 4)
EMULATED_VECTORS(unsigned char, uchar, 2, 4)
EMULATED_VECTORS(short, short, 4, 8)
EMULATED_VECTORS(unsigned short, ushort, 4, 8)
EMULATED_VECTORS(int, int, 8, 16)
EMULATED_VECTORS(unsigned, uint, 8, 16)
EMULATED_VECTORS(float, float, 8, 16)
EMULATED_VECTORS(double, double, 16, 16)
EMULATED_VECTORS(long long, longlong, 16, 16)
EMULATED_VECTORS(unsigned long long, ulonglong, 16, 16)
#undef EMULATED_VECTORS

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
