// sinusoids of numbers, f32.   y[n] = (sin(x_n f_i), cos(x_n f_i)) or cos first, f_i = period^(-i / (half - shift)).
// dx_n = sum_i f_i (cos(x_n f_i) dsin_i - sin(x_n f_i) dcos_i).   x: (N), y: (N, Dim); an odd Dim ends in a 0.
// Work: about 60 double operations an element.  Bytes: 4 N Dim.  SDXL: N <= 12, Dim <= 320: launch-bound.
// Tile: 256 threads, one element a thread; backward 128 threads, one x a block.   Measured: see NOTES.md.
// Determinism: bitwise.   Requires: |x f| < 2^30; f and the angle are rounded to f32 as on the CPU.
#include "common/block_sum.cuh"
#include "common/elementwise.cuh"
#include "common/exact.cuh"

namespace sinusoid {

using namespace elementwise;

struct Args {
  const float* x;   // (N)
  const float* dy;  // (N, Dim), backward only
  float* target;    // y, or dx
  Count len;        // N Dim
  int dim;
  int cos_first;
  float log_period, divisor;  // ln(period), half - shift
  Mode mode;                  // backward only
  int unused;
};

struct Wave {
  double sin, cos;
};

// Of an angle below 2^30: pi/2 in two parts, then the polynomials of fdlibm on [-pi/4, pi/4]. The library's
// sin and cos keep a table in local memory for larger angles.
__device__ inline Wave wave(double angle) {
  const double quarters = rint(angle * 0.63661977236758134308);
  const double x = (angle - quarters * 1.57079632673412561417) - quarters * 6.07710050650619224932e-11;
  const double z = x * x;
  const double s = x + x * z * (-1.66666666666666324348e-01 + z * (8.33333333332248946124e-03 +
      z * (-1.98412698298579493134e-04 + z * (2.75573137070700676789e-06 + z * -2.50507602534068634195e-08))));
  const double c = 1.0 - 0.5 * z + z * z * (4.16666666666666019037e-02 + z * (-1.38888888888741095749e-03 +
      z * (2.48015872894767294178e-05 + z * -2.75573143513906633035e-07)));
  const int quadrant = int((long long)quarters & 3);
  const double sine = quadrant & 1 ? c : s, cosine = quadrant & 1 ? s : c;
  return {quadrant & 2 ? -sine : sine, (quadrant + 1) & 2 ? -cosine : cosine};
}

// Rounded where cpu.rs rounds.
__device__ inline float frequency(const Args& a, int i) {
  return float(exp(double(exact::div(exact::mul(-a.log_period, __int2float_rn(i)), a.divisor))));
}

__device__ inline void forward(const Args& a) {
  for_own<1>(a.len, true, [&]<int Vec>(Count at) {
    const Cell p = cell<1>(at, unsigned(a.dim));
    const int half = a.dim / 2, col = int(p.col), i = col < half ? col : col - half;
    float y = 0.0f;  // the last of an odd number
    if (col < 2 * half) {
      const Wave w = wave(exact::mul(a.x[p.row], frequency(a, i)));
      y = float((col < half) == (a.cos_first != 0) ? w.cos : w.sin);
    }
    a.target[at] = y;
  });
}

struct RowTile {
  static constexpr int Threads = 128, BlockRows = 1, BlockCols = Threads, Stages = 1;
  static constexpr int SharedBytes = Threads * 8, BlocksPerSm = 4;
};

__device__ inline void backward(const Args& a) {
  auto& s = shared_memory<BlockSum<RowTile::Threads>>();
  const float x = a.x[blockIdx.x];
  const float* dy = a.dy + Count(blockIdx.x) * a.dim;
  const int half = a.dim / 2, sines = a.cos_first ? half : 0, cosines = half - sines;
  double sum = 0.0;
  for (int i = int(threadIdx.x); i < half; i += RowTile::Threads) {
    const float f = frequency(a, i);
    const Wave w = wave(exact::mul(x, f));
    sum += f * (w.cos * dy[sines + i] - w.sin * dy[cosines + i]);
  }
  const Lane<1> total = {{float(block_sum<RowTile::Threads>(s, sum))}};
  if (threadIdx.x == 0) write<float, 1>(a.target + blockIdx.x, total, a.mode);
}

}  // namespace sinusoid

EXPORT(sinusoid_forward, FlatTile<1>, sinusoid::Args, sinusoid::forward)
EXPORT(sinusoid_backward, sinusoid::RowTile, sinusoid::Args, sinusoid::backward)
