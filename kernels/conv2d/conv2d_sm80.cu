// convolution, bf16 f16, Ampere tensor cores.   x: (N, H, W, C), w: (O, kh, kw, C), y: (N, H', W', O)
//   y[p, o] = b[o] + t[image of p, o] + sum_{tap, c} x[p + tap, c] w[o, tap, c],
//   dx[q, c] = sum_{tap, o} dy[q - tap, o] w[o, tap, c],
//   dw[o, tap, c] = sum_p dy[p, o] x[p + tap, c], in ranges of p whose f32 sums conv2d_sums.cu adds in order.
//   Padding is cp.async's zero fill; no patches are ever stored.
// Work: 2*N*H'*W'*O*kh*kw*C flop each.  Bytes: every operand once from HBM; x again for each tap from L2.
// SDXL 320 -> 320 at 128x128, N=2: 60 GFLOP, 44 MB: 0.15 ms at 400 TF of mma.sync on an H200 -> matrix-bound.
// Tile: 128 x 128 x 32 (x 32 x 32 for up to 32 columns), 4 stages, 8 warps of 64 x 32, 66 KiB, 2 blocks/SM.
// Measured: see NOTES.md.   Determinism: bitwise; gathers only.
// Requires: 16-byte aligned operands; C % 8 == 0 forward, C % 8 == O % 8 == 0 backward; edges masked.
#include "common/vector.cuh"
#include "conv2d/args.cuh"
#include "conv2d/mma.cuh"

namespace conv2d {

using Wide = MmaTile<128, 2, 4>;   // warps of 64 x 32
using Narrow = MmaTile<32, 8, 1>;  // warps of 16 x 32: the last layer has 4 output channels

// Chunks of a line and lines between two chunks of one thread.
constexpr int kLineK = Wide::BlockK / kChunk;         // a line of reduction-major elements
constexpr int kStepK = Wide::Threads / kLineK;
static_assert(Wide::BlockK == Narrow::BlockK && Wide::Threads == Narrow::Threads, "one geometry of copies");

template <class T>
__device__ inline const T* element(const void* base, long long at) {
  return static_cast<const T*>(base) + at;
}

// Gathered pixels times weights: forward and the data gradient.
template <class T, Pass P, class Tile>
struct GatheredMma {
  static constexpr Major LB = P == Pass::Forward ? Major::Reduction : Major::Side;
  static constexpr int LinesA = Tile::BlockM / kStepK;
  static constexpr int LineB = P == Pass::Forward ? kLineK : Tile::BlockN / kChunk;  // chunks of a line of B
  static constexpr int StepB = Tile::Threads / LineB;
  static constexpr int TotalB = P == Pass::Forward ? Tile::BlockN : Tile::BlockK;    // lines of B
  static constexpr int LinesB = TotalB < StepB ? 1 : TotalB / StepB;                 // of a thread

  const Args& args;
  const View& view;
  Odometer walk;
  Digits at_a, at_b[P == Pass::Forward ? 1 : LinesB];  // reduction index of this thread's chunks
  Pixel pixels[LinesA];
  int n0, columns;

  __device__ GatheredMma(const Args& a, const View& g, int m0, int count, int n0_, int n_count)
      : args(a), view(g), walk(g.taps_x, g.channels, Tile::BlockK), n0(n0_), columns(n_count) {
    const int line = threadIdx.x / kLineK;
    at_a = walk.at(threadIdx.x % kLineK * kChunk);
    if constexpr (P == Pass::Data) {
#pragma unroll
      for (int i = 0; i < LinesB; ++i) at_b[i] = walk.at(threadIdx.x / LineB + StepB * i);
    }
#pragma unroll
    for (int i = 0; i < LinesA; ++i) pixels[i] = pixel(g, m0 + line + kStepK * i, count);
  }

  template <class A, class B>
  __device__ void copy(A& a, B& b) {
    const Shape& s = args.shape;
    const Offset d = shift<P>(s, at_a.u, at_a.v);
    const bool in_k = at_a.u < view.taps_y;
#pragma unroll
    for (int i = 0; i < LinesA; ++i) {
      const int from = source(view, P == Pass::Forward ? s.zoom : 0, pixels[i], d);
      const bool valid = in_k && from >= 0;
      const T* p = element<T>(args.src, valid ? (long long)from * view.channels + at_a.c : 0);
      ptx::cp_async_16(a.at(threadIdx.x / kLineK + kStepK * i, threadIdx.x % kLineK), p, valid);
    }
    copy_b(b, in_k);
    walk.advance(at_a);
  }

  template <class B>
  __device__ void copy_b(B& b, bool in_k) {
    const Shape& s = args.shape;
    const int line = threadIdx.x / LineB, chunk = threadIdx.x % LineB, taps = s.kh * s.kw;
    if (TotalB < StepB && line >= TotalB) return;
#pragma unroll
    for (int i = 0; i < LinesB; ++i) {
      const int l = line + StepB * i;
      long long at;
      bool valid;
      if constexpr (P == Pass::Forward) {
        valid = in_k && n0 + l < columns;
        at = ((long long)(n0 + l) * taps + kernel_tap<P>(s, view, at_a.u, at_a.v)) * s.c + at_a.c;
      } else {
        Digits& k = at_b[i];
        valid = k.u < view.taps_y && n0 + chunk * kChunk < columns;
        at = ((long long)k.c * taps + kernel_tap<P>(s, view, k.u, k.v)) * s.c + n0 + chunk * kChunk;
        walk.advance(k);
      }
      ptx::cp_async_16(b.at(l, chunk), element<T>(args.other, valid ? at : 0), valid);
    }
  }
};

// 8 finished sums of a row of `image`: bias, shifts and old content added in f32, one rounding.
template <class T>
__device__ inline void store_chunk(const Args& args, long long row, int image, int n, int columns, const float* sums) {
  T* out = static_cast<T*>(args.dst) + row * columns + n;
  const T* bias = static_cast<const T*>(args.bias) + n;
  const T* shifts = static_cast<const T*>(args.shifts) + (long long)image * columns + n;
  if (columns % kChunk == 0) {
    Lane<kChunk> x = load<kChunk>(sums);
    const Lane<kChunk> b = args.bias ? load<kChunk>(bias) : Lane<kChunk>{};
    const Lane<kChunk> s = args.shifts ? load<kChunk>(shifts) : Lane<kChunk>{};
    const Lane<kChunk> old = args.accumulate ? load<kChunk>(out) : Lane<kChunk>{};
#pragma unroll
    for (int i = 0; i < kChunk; ++i) x.v[i] = x.v[i] + b.v[i] + s.v[i] + old.v[i];
    store<kChunk>(out, x);
    return;
  }
  for (int i = 0; i < min(kChunk, columns - n); ++i) {
    float x = sums[i];
    if (args.bias) x += to_f32(bias[i]);
    if (args.shifts) x += to_f32(shifts[i]);
    if (args.accumulate) x += to_f32(out[i]);
    out[i] = from_f32<T>(x);
  }
}

// Grid: (pixel tiles x classes, channel tiles).
template <class T, Pass P, class Tile>
__device__ inline void gathered_mma(const Args& args) {
  using Operands = GatheredMma<T, P, Tile>;
  const Shape& s = args.shape;
  const int classes = P == Pass::Data && !s.zoom ? s.stride * s.stride : 1;
  const View g = view<P>(s, blockIdx.x % classes);
  const int m0 = blockIdx.x / classes * Tile::BlockM, n0 = blockIdx.y * Tile::BlockN;
  const int count = s.images * g.rows * g.cols, columns = P == Pass::Forward ? s.o : s.c;
  if (m0 >= count) return;
  Operands operands(args, g, m0, count, n0, columns);
  const int slabs = ceil_div(g.taps_y * g.taps_x * g.channels, Tile::BlockK);
  auto& sums = mma_product<T, Tile, Major::Reduction, Operands::LB>(operands, slabs).staged;
  constexpr int Line = Tile::BlockN / kChunk;
  for (int i = threadIdx.x; i < Tile::BlockM * Line; i += Tile::Threads) {
    const int row = i / Line, n = i % Line * kChunk;
    if (m0 + row < count && n0 + n < columns)
      store_chunk<T>(args, destination(g, m0 + row), (m0 + row) / (g.rows * g.cols), n0 + n, columns, &sums[row][n]);
  }
}

// Output gradients times gathered image pixels: the weight gradient; the reduction runs over pixels.
template <class T, class Tile>
struct WeightedMma {
  static constexpr int Line = Tile::BlockM / kChunk;         // chunks of a line of A and of B
  static constexpr int Step = Tile::Threads / Line;
  static constexpr int Lines = Tile::BlockK / Step;          // of a thread
  static_assert(Tile::BlockM == Tile::BlockN, "A and B are copied alike");

  const Args& args;
  View view;
  Odometer walk;
  Digits at[Lines];  // image, row, column of this thread's output pixels
  int left;          // pixels of the range from the first of them on; 0 or less: none
  int row;           // output channel of this thread's chunk of A; negative: there is none
  int channel;       // image channel of this thread's chunk of B; negative: there is none
  Offset tap;

  __device__ WeightedMma(const Args& a, int m0, int n0, int first, int count)
      : args(a),
        view(conv2d::view<Pass::Forward>(a.shape, 0)),
        walk(a.shape.oh, a.shape.ow, Tile::BlockK) {
    const Shape& s = a.shape;
    const int line = threadIdx.x / Line, chunk = threadIdx.x % Line;
#pragma unroll
    for (int i = 0; i < Lines; ++i) at[i] = walk.at(first + line + Step * i);
    left = count - line;
    row = m0 + chunk * kChunk < s.o ? m0 + chunk * kChunk : -1;
    const Odometer columns(s.kw, s.c, 0);
    const Digits d = columns.at(n0 + chunk * kChunk);
    tap = {d.u, d.v};
    channel = d.u < s.kh ? d.c : -1;
  }

  template <class A, class B>
  __device__ void copy(A& a, B& b) {
    const Shape& s = args.shape;
    const int line = threadIdx.x / Line, chunk = threadIdx.x % Line;
#pragma unroll
    for (int i = 0; i < Lines; ++i) {
      const bool valid = left > Step * i;
      const Pixel p = {valid ? at[i].u * view.image : -1, at[i].v * s.stride - s.top,
                       at[i].c * s.stride - s.left};
      const int from = source(view, s.zoom, p, tap);
      const bool in_a = valid && row >= 0, in_b = from >= 0 && channel >= 0;
      const long long dy = ((long long)at[i].u * s.oh + at[i].v) * s.ow + at[i].c;
      ptx::cp_async_16(a.at(line + Step * i, chunk), element<T>(args.src, in_a ? dy * s.o + row : 0), in_a);
      ptx::cp_async_16(b.at(line + Step * i, chunk),
                       element<T>(args.other, in_b ? (long long)from * s.c + channel : 0), in_b);
      walk.advance(at[i]);
    }
    left -= Tile::BlockK;
  }
};

// Grid: (output channel tiles, tap and channel tiles, ranges of pixels).
template <class T, class Tile>
__device__ inline void weighted_mma(const Args& args) {
  const Shape& s = args.shape;
  const int m0 = blockIdx.x * Tile::BlockM, n0 = blockIdx.y * Tile::BlockN;
  const int columns = s.kh * s.kw * s.c, pixels = s.images * s.oh * s.ow;
  const int first = blockIdx.z * args.range, count = max(min(args.range, pixels - first), 0);
  WeightedMma<T, Tile> operands(args, m0, n0, first, count);
  const int slabs = ceil_div(count, Tile::BlockK);
  auto& sums = mma_product<T, Tile, Major::Side, Major::Side>(operands, slabs).staged;
  constexpr int Line = Tile::BlockN / kChunk;
  for (int i = threadIdx.x; i < Tile::BlockM * Line; i += Tile::Threads) {
    const int row = i / Line, n = i % Line * kChunk;
    if (m0 + row >= s.o || n0 + n >= columns) continue;
    if (args.partial)
      store<kChunk>(args.partial + ((long long)blockIdx.z * s.o + m0 + row) * columns + n0 + n,
                    load<kChunk>(&sums[row][n]));
    else
      store_chunk<T>(args, m0 + row, 0, n0 + n, columns, &sums[row][n]);
  }
}

}  // namespace conv2d

EXPORT(conv2d_forward_sm80_n128_bf16, conv2d::Wide, conv2d::Args,
       (conv2d::gathered_mma<bf16, conv2d::Pass::Forward, conv2d::Wide>))
EXPORT(conv2d_forward_sm80_n32_bf16, conv2d::Narrow, conv2d::Args,
       (conv2d::gathered_mma<bf16, conv2d::Pass::Forward, conv2d::Narrow>))
EXPORT(conv2d_data_sm80_n128_bf16, conv2d::Wide, conv2d::Args,
       (conv2d::gathered_mma<bf16, conv2d::Pass::Data, conv2d::Wide>))
EXPORT(conv2d_data_sm80_n32_bf16, conv2d::Narrow, conv2d::Args,
       (conv2d::gathered_mma<bf16, conv2d::Pass::Data, conv2d::Narrow>))
EXPORT(conv2d_weight_sm80_n128_bf16, conv2d::Wide, conv2d::Args, (conv2d::weighted_mma<bf16, conv2d::Wide>))
EXPORT(conv2d_forward_sm80_n128_f16, conv2d::Wide, conv2d::Args,
       (conv2d::gathered_mma<f16, conv2d::Pass::Forward, conv2d::Wide>))
EXPORT(conv2d_forward_sm80_n32_f16, conv2d::Narrow, conv2d::Args,
       (conv2d::gathered_mma<f16, conv2d::Pass::Forward, conv2d::Narrow>))
EXPORT(conv2d_data_sm80_n128_f16, conv2d::Wide, conv2d::Args,
       (conv2d::gathered_mma<f16, conv2d::Pass::Data, conv2d::Wide>))
EXPORT(conv2d_data_sm80_n32_f16, conv2d::Narrow, conv2d::Args,
       (conv2d::gathered_mma<f16, conv2d::Pass::Data, conv2d::Narrow>))
EXPORT(conv2d_weight_sm80_n128_f16, conv2d::Wide, conv2d::Args, (conv2d::weighted_mma<f16, conv2d::Wide>))
