// convolution, any size, f32 bf16 f16, CUDA cores.   x: (N, H, W, C), w: (O, kh, kw, C), y: (N, H', W', O)
//   y[p, o] = b[o] + t[image of p, o] + sum_{tap, c} x[p + tap, c] w[o, tap, c],
//   dx[q, c] = sum_{tap, o} dy[q - tap, o] w[o, tap, c],
//   dw[o, tap, c] = sum_p dy[p, o] x[p + tap, c], in ranges of p whose f32 sums conv2d_sums.cu adds in order.
// Work: 2*N*H'*W'*O*kh*kw*C flop each.  Bytes: every operand once from HBM; x again for each tap from L2.
// SDXL 4 -> 320 at 128x128: 0.38 GFLOP, 11 MB: 0.02 ms at 20 TF of fused multiply-adds -> core-bound.
// Tile: 64 x 64 x 16, 2 stages, 256 threads of 4 x 4 sums, 17 KiB shared memory, 2 blocks/SM.
// Measured: see NOTES.md.   Determinism: bitwise; gathers only.   Requires: nothing; all edges masked.
#include "common/element.cuh"
#include "common/shared.cuh"
#include "conv2d/args.cuh"

namespace conv2d {

struct Tile {
  static constexpr int BlockM = 64, BlockN = 64, BlockK = 16;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, Stages = 2, Threads = 256, BlocksPerSm = 2;
  static constexpr int Each = 4;                 // elements of a slab a thread copies, sums a side it owns
  static constexpr int Pitch = BlockM + Each;    // keeps rows 16-byte aligned and spreads the banks
  static_assert(BlockM == BlockN && BlockM * BlockK == Threads * Each, "a thread copies 4 of a slab");
  static_assert(BlockM * BlockN == Threads * Each * Each, "4 x 4 sums a thread");
  static constexpr int SharedBytes = 2 * Stages * BlockK * Pitch * int(sizeof(float));
};

struct Shared {
  float a[Tile::Stages][Tile::BlockK][Tile::Pitch];  // (BlockK, BlockM)
  float b[Tile::Stages][Tile::BlockK][Tile::Pitch];  // (BlockK, BlockN)
};
static_assert(sizeof(Shared) == Tile::SharedBytes, "the tile record must say what is used");

// 16 threads side by side and 16 groups of them; copies go 16 apart.
constexpr int kSide = 16;

struct Sums {
  float v[Tile::Each][Tile::Each];
};

__device__ inline void multiply(const Shared& s, int stage, int ty, int tx, Sums& sums) {
#pragma unroll
  for (int k = 0; k < Tile::BlockK; ++k) {
    const float4 a = *reinterpret_cast<const float4*>(&s.a[stage][k][ty * Tile::Each]);
    const float4 b = *reinterpret_cast<const float4*>(&s.b[stage][k][tx * Tile::Each]);
    const float m[4] = {a.x, a.y, a.z, a.w}, n[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i)
#pragma unroll
      for (int j = 0; j < Tile::Each; ++j) sums.v[i][j] += m[i] * n[j];
  }
}

// Four elements of each operand, on their way from global to shared memory.
struct Fetched {
  float a[Tile::Each], b[Tile::Each];
};

// The product of `slabs` slabs; `operands` fetches the next slab and knows where it belongs.
template <class Operands>
__device__ inline Sums product(Operands& operands, int slabs) {
  Shared& s = shared_memory<Shared>();
  const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
  Sums sums = {};
  if (slabs == 0) return sums;
  Fetched next = operands.fetch();
  operands.place(s, 0, next);
  __syncthreads();
  for (int k = 0; k < slabs; ++k) {
    if (k + 1 < slabs) next = operands.fetch();
    multiply(s, k & 1, ty, tx, sums);
    if (k + 1 < slabs) operands.place(s, (k + 1) & 1, next);
    __syncthreads();
  }
  return sums;
}

template <class T>
__device__ inline float read(const void* p, long long at, bool valid) {
  return valid ? to_f32(static_cast<const T*>(p)[at]) : 0.0f;
}

// Gathered pixels times weights: forward and the data gradient.
template <class T, Pass P>
struct Gathered {
  const Args& args;
  const View& view;
  Odometer walk;
  Digits at_a, at_b;              // reduction index of this thread's elements of A and of B
  Pixel pixels[Tile::Each];       // rows of A: threadIdx / 16 + 16 i
  int column;                     // first column of B
  int columns;                    // how many there are

  __device__ Gathered(const Args& a, const View& g, int m0, int count, int n0, int n_count)
      : args(a), view(g), walk(g.taps_x, g.channels, Tile::BlockK), columns(n_count) {
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    at_a = walk.at(tx);
    at_b = walk.at(P == Pass::Forward ? tx : ty);
    column = n0 + (P == Pass::Forward ? ty : tx);
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) pixels[i] = pixel(g, m0 + ty + kSide * i, count);
  }

  __device__ Fetched fetch() {
    const Shape& s = args.shape;
    Fetched f;
    const Offset d = shift<P>(s, at_a.u, at_a.v);
    const bool in_k = at_a.u < view.taps_y, in_k_b = at_b.u < view.taps_y;
    const int tap = kernel_tap<P>(s, view, at_b.u, at_b.v), taps = s.kh * s.kw;
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) {
      const int from = source(view, P == Pass::Forward ? s.zoom : 0, pixels[i], d);
      f.a[i] = read<T>(args.src, (long long)from * view.channels + at_a.c, in_k && from >= 0);
      const int n = column + kSide * i;
      const int o = P == Pass::Forward ? n : at_b.c, c = P == Pass::Forward ? at_b.c : n;
      f.b[i] = read<T>(args.other, ((long long)o * taps + tap) * s.c + c, in_k_b && n < columns);
    }
    walk.advance(at_a);
    walk.advance(at_b);
    return f;
  }

  __device__ void place(Shared& s, int stage, const Fetched& f) const {
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) {
      s.a[stage][tx][ty + kSide * i] = f.a[i];
      if constexpr (P == Pass::Forward)
        s.b[stage][tx][ty + kSide * i] = f.b[i];
      else
        s.b[stage][ty][tx + kSide * i] = f.b[i];
    }
  }
};

// Grid: (pixel tiles x classes, channel tiles).
template <class T, Pass P>
__device__ inline void gathered(const Args& args) {
  const Shape& s = args.shape;
  const int classes = P == Pass::Data && !s.zoom ? s.stride * s.stride : 1;
  const View g = view<P>(s, blockIdx.x % classes);
  const int m0 = blockIdx.x / classes * Tile::BlockM, n0 = blockIdx.y * Tile::BlockN;
  const int count = s.images * g.rows * g.cols, columns = P == Pass::Forward ? s.o : s.c;
  if (m0 >= count) return;
  Gathered<T, P> operands(args, g, m0, count, n0, columns);
  const Sums sums = product(operands, ceil_div(g.taps_y * g.taps_x * g.channels, Tile::BlockK));
  const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < Tile::Each; ++i) {
    const int p = m0 + ty * Tile::Each + i;
    if (p >= count) break;
    T* row = static_cast<T*>(args.dst) + (long long)destination(g, p) * columns;
    const long long image = P == Pass::Forward ? p / (g.rows * g.cols) : 0;
    const T* shifts = static_cast<const T*>(args.shifts) + image * columns;
#pragma unroll
    for (int j = 0; j < Tile::Each; ++j) {
      const int n = n0 + tx * Tile::Each + j;
      if (n >= columns) break;
      float x = sums.v[i][j];
      if (args.bias) x += to_f32(static_cast<const T*>(args.bias)[n]);
      if (P == Pass::Forward && args.shifts) x += to_f32(shifts[n]);
      if (args.accumulate) x += to_f32(row[n]);
      row[n] = from_f32<T>(x);
    }
  }
}

// Output gradients times gathered image pixels: the weight gradient; the reduction runs over pixels.
template <class T>
struct Weighted {
  const Args& args;
  View view;
  Odometer walk;
  Digits at;                      // image, row, column of this thread's output pixel
  int left;                       // pixels of the range from this one on; 0 or less: none
  int row;                        // first output channel (row of dw)
  int channel[Tile::Each];        // columns of dw: n0 + threadIdx % 16 + 16 i; negative: there is none
  Offset taps[Tile::Each];

  __device__ Weighted(const Args& a, int m0, int n0, int first, int count)
      : args(a),
        view(conv2d::view<Pass::Forward>(a.shape, 0)),
        walk(a.shape.oh, a.shape.ow, Tile::BlockK) {
    const Shape& s = a.shape;
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    at = walk.at(first + ty);
    left = count - ty;
    row = m0 + tx;
    const Odometer columns(s.kw, s.c, 0);
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) {
      const Digits d = columns.at(n0 + tx + kSide * i);
      taps[i] = {d.u, d.v};
      channel[i] = d.u < s.kh ? d.c : -1;
    }
  }

  __device__ Fetched fetch() {
    const Shape& s = args.shape;
    const bool valid = left > 0;
    const Pixel p = {valid ? at.u * view.image : -1, at.v * s.stride - s.top, at.c * s.stride - s.left};
    const long long dy = (((long long)at.u * s.oh + at.v) * s.ow + at.c) * s.o;
    Fetched f;
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) {
      const int o = row + kSide * i, from = source(view, s.zoom, p, taps[i]);
      f.a[i] = read<T>(args.src, dy + o, valid && o < s.o);
      f.b[i] = read<T>(args.other, (long long)from * s.c + channel[i], from >= 0 && channel[i] >= 0);
    }
    walk.advance(at);
    left -= Tile::BlockK;
    return f;
  }

  __device__ void place(Shared& s, int stage, const Fetched& f) const {
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
#pragma unroll
    for (int i = 0; i < Tile::Each; ++i) {
      s.a[stage][ty][tx + kSide * i] = f.a[i];
      s.b[stage][ty][tx + kSide * i] = f.b[i];
    }
  }
};

// Grid: (output channel tiles, tap and channel tiles, ranges of pixels).
template <class T>
__device__ inline void weighted(const Args& args) {
  const Shape& s = args.shape;
  const int m0 = blockIdx.x * Tile::BlockM, n0 = blockIdx.y * Tile::BlockN;
  const int columns = s.kh * s.kw * s.c, pixels = s.images * s.oh * s.ow;
  const int first = blockIdx.z * args.range, count = max(min(args.range, pixels - first), 0);
  Weighted<T> operands(args, m0, n0, first, count);
  const Sums sums = product(operands, ceil_div(count, Tile::BlockK));
  const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
#pragma unroll
  for (int i = 0; i < Tile::Each; ++i) {
    const int o = m0 + ty * Tile::Each + i;
    if (o >= s.o) break;
#pragma unroll
    for (int j = 0; j < Tile::Each; ++j) {
      const int n = n0 + tx * Tile::Each + j;
      if (n >= columns) break;
      const long long at = (long long)o * columns + n;
      if (args.partial) {
        args.partial[(long long)blockIdx.z * s.o * columns + at] = sums.v[i][j];
      } else {
        T& old = static_cast<T*>(args.dst)[at];
        old = from_f32<T>(args.accumulate ? to_f32(old) + sums.v[i][j] : sums.v[i][j]);
      }
    }
  }
}

}  // namespace conv2d

EXPORT(conv2d_forward_f32, conv2d::Tile, conv2d::Args, (conv2d::gathered<float, conv2d::Pass::Forward>))
EXPORT(conv2d_forward_bf16, conv2d::Tile, conv2d::Args, (conv2d::gathered<bf16, conv2d::Pass::Forward>))
EXPORT(conv2d_forward_f16, conv2d::Tile, conv2d::Args, (conv2d::gathered<f16, conv2d::Pass::Forward>))
EXPORT(conv2d_data_f32, conv2d::Tile, conv2d::Args, (conv2d::gathered<float, conv2d::Pass::Data>))
EXPORT(conv2d_data_bf16, conv2d::Tile, conv2d::Args, (conv2d::gathered<bf16, conv2d::Pass::Data>))
EXPORT(conv2d_data_f16, conv2d::Tile, conv2d::Args, (conv2d::gathered<f16, conv2d::Pass::Data>))
EXPORT(conv2d_weight_f32, conv2d::Tile, conv2d::Args, conv2d::weighted<float>)
EXPORT(conv2d_weight_bf16, conv2d::Tile, conv2d::Args, conv2d::weighted<bf16>)
EXPORT(conv2d_weight_f16, conv2d::Tile, conv2d::Args, conv2d::weighted<f16>)
