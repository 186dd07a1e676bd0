// depthwise convolution, f32 bf16 f16.   y[n,i,j,c] = b[c] + sum x[n, i s + u - pad, j s + v - pad, c] w[u,v,c]; dx, dw, db.
// x: (N, H, W, C), w: (kh, kw, C), y: (N, oh, ow, C).
// Work: 2 kh kw N oh ow C flop.  Bytes: (N H W + N oh ow) C sizeof(T); the taps of neighbours come from L1 and L2.
// TinyViT, 128 x 128 of 512, 3 x 3, bf16: 0.15 GFLOP, 34 MB -> 7.8 us at 4.3 TB/s: memory-bound.
// Tile: forward, dx: 256 threads, 16 bytes of channels a thread. dw: 64 channels of a tap a block, a part of the positions.
// Measured: see NOTES.md.   Determinism: bitwise, no atomics: parts are summed in order.
// Requires: nothing; C not a multiple of 16 bytes and odd addresses go element by element.
#include "common/elementwise.cuh"
#include "common/shared.cuh"

namespace depthwise {

using namespace elementwise;

template <class T>
struct Args {
  const T *from, *weight, *bias;  // x (or dy), w, b (forward only)
  T* target;                      // y, or dx
  Count len;                      // of target
  int h, w, c, kh, kw, oh, ow, stride, pad;
  Mode mode;                      // backward only
};

template <class T>
__device__ inline bool whole(const Args<T>& a) {
  return a.c % PerAccess<T> == 0 && aligned(a.from, a.weight, a.bias, a.target);
}

template <int Vec, class T>
__device__ inline void add_product(Lane<Vec>& sum, const T* x, const T* w) {
  const Lane<Vec> p = load<Vec>(x), q = load<Vec>(w);
#pragma unroll
  for (int k = 0; k < Vec; ++k) sum.v[k] += p.v[k] * q.v[k];
}

template <class T>
__device__ inline void forward(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, unsigned(a.c));
    const unsigned pixel = unsigned(p.row), line = pixel / unsigned(a.ow), n = line / unsigned(a.oh);
    const int y0 = int(line - n * unsigned(a.oh)) * a.stride - a.pad;
    const int x0 = int(pixel - line * unsigned(a.ow)) * a.stride - a.pad;
    Lane<Vec> sum = load<Vec>(a.bias + p.col);
    for (int u = max(0, -y0); u < min(a.kh, a.h - y0); ++u)
#pragma unroll 1  // unrolled by the compiler it spills at four blocks
      for (int v = max(0, -x0); v < min(a.kw, a.w - x0); ++v)
        add_product<Vec>(sum, a.from + ((Count(n) * a.h + y0 + u) * a.w + x0 + v) * a.c + p.col,
                         a.weight + (u * a.kw + v) * a.c + p.col);
    store<Vec>(a.target + at, sum);
  });
}

// The output position that reads input position `i` with kernel position `u`; -1 where there is none.
__device__ inline int reader(int i, int u, int stride, int out) {
  if (i < u) return -1;
  const int o = int(unsigned(i - u) / unsigned(stride));
  return o * stride == i - u && o < out ? o : -1;
}

template <class T>
__device__ inline void input(const Args<T>& a) {
  for_own<PerAccess<T>>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Cell p = cell<Vec>(at, unsigned(a.c));
    const unsigned pixel = unsigned(p.row), line = pixel / unsigned(a.w), n = line / unsigned(a.h);
    const int y = int(line - n * unsigned(a.h)) + a.pad, x = int(pixel - line * unsigned(a.w)) + a.pad;
    Lane<Vec> sum = {};
    for (int u = 0; u < a.kh; ++u) {
      const int oy = reader(y, u, a.stride, a.oh);
      if (oy < 0) continue;
      for (int v = 0; v < a.kw; ++v) {
        const int ox = reader(x, v, a.stride, a.ow);
        if (ox >= 0)
          add_product<Vec>(sum, a.from + ((Count(n) * a.oh + oy) * a.ow + ox) * a.c + p.col,
                           a.weight + (u * a.kw + v) * a.c + p.col);
      }
    }
    write<T, Vec>(a.target + at, sum, a.mode);
  });
}

template <class T>
struct SumArgs {
  const T *x, *dy;   // x: null when only db is wanted
  float* partial;    // (parts, taps + 1, C); the last row of a part is the bias's
  T *dw, *db;
  int positions, part_rows, parts, taps;
  int h, w, c, kw, oh, ow, stride, pad;
  Mode mode_w, mode_b;
};

struct SumShared { float partial[4][64]; };

struct SumTile {
  static constexpr int Channels = 64, Lanes = 4;  // lanes take every fourth position of the part
  static constexpr int BlockRows = 1, BlockCols = Channels, Stages = 1, Threads = Channels * Lanes;
  static constexpr int SharedBytes = sizeof(SumShared), BlocksPerSm = 4;
};

// Block (64 channels, tap, part of the positions).
template <class T>
__device__ inline void sums(const SumArgs<T>& a) {
  auto& s = shared_memory<SumShared>();
  const int in_block = int(threadIdx.x) % SumTile::Channels, lane = int(threadIdx.x) / SumTile::Channels;
  const int c = int(blockIdx.x) * SumTile::Channels + in_block, tap = int(blockIdx.y), part = int(blockIdx.z);
  const int first = part * a.part_rows, last = min(first + a.part_rows, a.positions);
  const int u = tap / a.kw, v = tap - u * a.kw;
  float sum = 0.0f;
  if (c < a.c)
    for (int at = first + lane; at < last; at += SumTile::Lanes) {
      const float dy = to_f32(a.dy[(long long)at * a.c + c]);
      if (tap == a.taps) {
        sum += dy;
      } else if (a.x) {
        const int line = at / a.ow, n = line / a.oh;
        const int y = (line - n * a.oh) * a.stride + u - a.pad, x = (at - line * a.ow) * a.stride + v - a.pad;
        if (y >= 0 && y < a.h && x >= 0 && x < a.w)
          sum += dy * to_f32(a.x[(((long long)n * a.h + y) * a.w + x) * a.c + c]);
      }
    }
  s.partial[lane][in_block] = sum;
  __syncthreads();
  if (lane || c >= a.c) return;
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < SumTile::Lanes; ++i) total += s.partial[i][in_block];
  a.partial[((long long)part * (a.taps + 1) + tap) * a.c + c] = total;
}

// One element of dw or db a thread.
template <class T>
__device__ inline void total(const SumArgs<T>& a) {
  const int i = int(blockIdx.x) * FlatTile<1>::Threads + int(threadIdx.x), len = (a.taps + 1) * a.c;
  if (i >= len) return;
  float sum = 0.0f;
  for (int p = 0; p < a.parts; ++p) sum += a.partial[(long long)p * len + i];
  const bool weight = i < a.taps * a.c;
  Lane<1> g = {sum};
  if (weight) write<T, 1>(a.dw + i, g, a.mode_w);
  else write<T, 1>(a.db + (i - a.taps * a.c), g, a.mode_b);
}

}  // namespace depthwise

EXPORT(depthwise_forward_f32, elementwise::Tile<float>, depthwise::Args<float>, depthwise::forward<float>)
EXPORT(depthwise_forward_bf16, elementwise::Tile<bf16>, depthwise::Args<bf16>, depthwise::forward<bf16>)
EXPORT(depthwise_forward_f16, elementwise::Tile<f16>, depthwise::Args<f16>, depthwise::forward<f16>)
EXPORT(depthwise_input_f32, elementwise::Tile<float>, depthwise::Args<float>, depthwise::input<float>)
EXPORT(depthwise_input_bf16, elementwise::Tile<bf16>, depthwise::Args<bf16>, depthwise::input<bf16>)
EXPORT(depthwise_input_f16, elementwise::Tile<f16>, depthwise::Args<f16>, depthwise::input<f16>)
EXPORT(depthwise_sums_f32, depthwise::SumTile, depthwise::SumArgs<float>, depthwise::sums<float>)
EXPORT(depthwise_sums_bf16, depthwise::SumTile, depthwise::SumArgs<bf16>, depthwise::sums<bf16>)
EXPORT(depthwise_sums_f16, depthwise::SumTile, depthwise::SumArgs<f16>, depthwise::sums<f16>)
EXPORT(depthwise_total_f32, FlatTile<1>, depthwise::SumArgs<float>, depthwise::total<float>)
EXPORT(depthwise_total_bf16, FlatTile<1>, depthwise::SumArgs<bf16>, depthwise::total<bf16>)
EXPORT(depthwise_total_f16, FlatTile<1>, depthwise::SumArgs<f16>, depthwise::total<f16>)
