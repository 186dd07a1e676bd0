// ldmatrix, stmatrix, mma.sync: fragments as the PTX manual lays them out. Part of scheduler.cpp.
#pragma once
#include "emulator/models.h"
#include "emulator/unit.h"

namespace emulator {

namespace {

struct MatrixRows {
  uint32_t* r;
  unsigned char* row;
};

// Lane l holds elements (l / 4, 2 (l % 4)) and its right neighbour of each 8 x 8 matrix; the row r
// of matrix i is at the address that lane 8 i + r brought.
template <unsigned Count, bool Transposed>
void load_matrices(void* const* args, unsigned) {
  auto row = [&](unsigned lane) { return static_cast<MatrixRows*>(args[lane])->row; };
  for (unsigned l = 0; l < 32; ++l) {
    auto* to = static_cast<MatrixRows*>(args[l]);
    for (unsigned i = 0; i < Count; ++i) {
      uint16_t lo, hi;
      if (Transposed) {
        __builtin_memcpy(&lo, row(8 * i + 2 * (l % 4)) + 2 * (l / 4), 2);
        __builtin_memcpy(&hi, row(8 * i + 2 * (l % 4) + 1) + 2 * (l / 4), 2);
        to->r[i] = lo | uint32_t(hi) << 16;
      } else {
        __builtin_memcpy(&to->r[i], row(8 * i + l / 4) + 4 * (l % 4), 4);
      }
    }
  }
}

template <unsigned Count, bool Transposed>
void store_matrices(void* const* args, unsigned) {
  auto row = [&](unsigned lane) { return static_cast<MatrixRows*>(args[lane])->row; };
  for (unsigned l = 0; l < 32; ++l) {
    auto* from = static_cast<MatrixRows*>(args[l]);
    for (unsigned i = 0; i < Count; ++i) {
      const uint16_t lo = uint16_t(from->r[i]), hi = uint16_t(from->r[i] >> 16);
      if (Transposed) {
        __builtin_memcpy(row(8 * i + 2 * (l % 4)) + 2 * (l / 4), &lo, 2);
        __builtin_memcpy(row(8 * i + 2 * (l % 4) + 1) + 2 * (l / 4), &hi, 2);
      } else {
        __builtin_memcpy(row(8 * i + l / 4) + 4 * (l % 4), &from->r[i], 4);
      }
    }
  }
}

struct MmaOperands {
  float* d;
  const uint32_t *a, *b;
};

template <unsigned K>
struct MmaTile {
  alignas(32) float a[16][K], b[K][8], d[16][8];
  void multiply() {
    for (unsigned m = 0; m < 16; ++m)
      for (unsigned k = 0; k < K; ++k)
        for (unsigned n = 0; n < 8; ++n) d[m][n] += a[m][k] * b[k][n];
  }
  float& of_lane(unsigned l, unsigned i) { return d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2]; }
};

template <Number N>
void mma_k16(void* const* args, unsigned) {
  MmaTile<16> t;
  auto value = [](uint32_t pair, unsigned half) { return f32_of(N, uint16_t(pair >> 16 * half)); };
  for (unsigned l = 0; l < 32; ++l) {
    const auto& x = *static_cast<MmaOperands*>(args[l]);
    const unsigned q = l / 4, c = l % 4 * 2;
    for (unsigned h = 0; h < 2; ++h) {
      for (unsigned i = 0; i < 4; ++i) t.a[q + i % 2 * 8][c + i / 2 * 8 + h] = value(x.a[i], h);
      for (unsigned i = 0; i < 2; ++i) t.b[c + i * 8 + h][q] = value(x.b[i], h);
    }
    for (unsigned i = 0; i < 4; ++i) t.of_lane(l, i) = x.d[i];
  }
  t.multiply();
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned i = 0; i < 4; ++i) static_cast<MmaOperands*>(args[l])->d[i] = t.of_lane(l, i);
}

void mma_k8_tf32(void* const* args, unsigned) {
  MmaTile<8> t;
  auto value = [](uint32_t x) { return __builtin_bit_cast(float, x & 0xFFFFE000u); };
  for (unsigned l = 0; l < 32; ++l) {
    const auto& x = *static_cast<MmaOperands*>(args[l]);
    const unsigned q = l / 4, c = l % 4;
    for (unsigned i = 0; i < 4; ++i) t.a[q + i % 2 * 8][c + i / 2 * 4] = value(x.a[i]);
    for (unsigned i = 0; i < 2; ++i) t.b[c + i * 4][q] = value(x.b[i]);
    for (unsigned i = 0; i < 4; ++i) t.of_lane(l, i) = x.d[i];
  }
  t.multiply();
  for (unsigned l = 0; l < 32; ++l)
    for (unsigned i = 0; i < 4; ++i) static_cast<MmaOperands*>(args[l])->d[i] = t.of_lane(l, i);
}

Together loader(unsigned count, bool transposed) {
  if (transposed)
    return count == 1 ? load_matrices<1, true> : count == 2 ? load_matrices<2, true>
                                                            : load_matrices<4, true>;
  return count == 1 ? load_matrices<1, false> : count == 2 ? load_matrices<2, false>
                                                           : load_matrices<4, false>;
}

Together storer(unsigned count, bool transposed) {
  if (transposed)
    return count == 1 ? store_matrices<1, true> : count == 2 ? store_matrices<2, true>
                                                             : store_matrices<4, true>;
  return count == 1 ? store_matrices<1, false> : count == 2 ? store_matrices<2, false>
                                                            : store_matrices<4, false>;
}

}  // namespace

void ldmatrix(uint32_t* r, unsigned count, bool transposed, uint32_t row, int line) {
  unsigned char* p = nullptr;
  if (here()->lane < 8 * count) {  // the addresses of other lanes are not used
    p = own_shared(row, 16, "ldmatrix");
    sanitizer::read(p, 16);
  }
  MatrixRows x{r, p};
  meet("ldmatrix", line, 0xFFFFFFFFu, &x, loader(count, transposed), Meets::Whole);
}

void stmatrix(const uint32_t* r, unsigned count, bool transposed, uint32_t row, int line) {
  unsigned char* p = nullptr;
  if (here()->lane < 8 * count) {
    p = own_shared(row, 16, "stmatrix");
    sanitizer::write(p, 16);
    in_flight(here()->fiber).unfenced.push_back(p);
  }
  MatrixRows x{const_cast<uint32_t*>(r), p};
  meet("stmatrix", line, 0xFFFFFFFFu, &x, storer(count, transposed), Meets::Whole);
}

void mma_m16n8k16(Number n, float* d, const uint32_t* a, const uint32_t* b, int line) {
  MmaOperands x{d, a, b};
  meet(n == Number::Bf16 ? "mma.m16n8k16.bf16" : "mma.m16n8k16.f16", line, 0xFFFFFFFFu, &x,
       n == Number::Bf16 ? mma_k16<Number::Bf16> : mma_k16<Number::F16>, Meets::Whole);
}

void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, int line) {
  MmaOperands x{d, a, b};
  meet("mma.m16n8k8.tf32", line, 0xFFFFFFFFu, &x, mma_k8_tf32, Meets::Whole);
}

}  // namespace emulator
