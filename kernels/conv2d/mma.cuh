// A block's product on Ampere's tensor cores: 16-byte cp.async into a ring, ldmatrix, mma.sync, f32 sums.
// What a slab holds and where a tile goes is the Operands' business: conv2d_sm80.cu.
#pragma once
#include "common/element.cuh"
#include "common/shared.cuh"
#include "conv2d/gather.cuh"
#include "ptx/cp_async.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

namespace conv2d {

constexpr int kChunk = 8;  // 16-bit elements of one 16-byte copy

// Which index of an operand runs fastest in memory: the reduction's, or the row's (column's).
enum class Major { Reduction, Side };

template <int BlockN_, int WarpsM_, int WarpsN_>
struct MmaTile {
  static constexpr int BlockM = 128, BlockN = BlockN_, BlockK = 32, Stages = 4, Threads = 256;
  static constexpr int BlockRows = BlockM, BlockCols = BlockN, BlocksPerSm = 2;
  static constexpr int WarpsN = WarpsN_, WarpM = BlockM / WarpsM_, WarpN = BlockN / WarpsN_;
  static constexpr int FragM = WarpM / 16, FragN = WarpN / 8;
  static constexpr int Pitch = BlockN + 4;  // floats of a staged row: shifts the banks, keeps 16 bytes
  static constexpr int RingBytes = Stages * (BlockM + BlockN) * BlockK * 2;
  static constexpr int StagedBytes = BlockM * Pitch * 4;
  static constexpr int SharedBytes = RingBytes > StagedBytes ? RingBytes : StagedBytes;
  static_assert(WarpsM_ * WarpsN_ * 32 == Threads, "8 warps");
  static_assert(WarpM % 16 == 0 && WarpN % 16 == 0, "whole fragments: ldmatrix_x4 loads two of B");
};

// One slab of an operand with `Side` rows (or columns); swizzled: the 8 chunks of an ldmatrix share no bank.
template <Major L, int Side, int Depth>
struct Slab {
  unsigned short bits[Side * Depth];
  static constexpr int Chunks = (L == Major::Reduction ? Depth : Side) / kChunk;  // of a line
  static_assert(Chunks == 4 || Chunks % 8 == 0, "the swizzle below covers lines of 64 bytes and of 128 n");

  // The chunk that holds elements (line, chunk * 8 ..).
  __device__ unsigned short* at(int line, int chunk) {
    const int spread = Chunks == 4 ? line >> 1 & 3 : line & 7;
    return bits + (line * Chunks + (chunk ^ spread)) * kChunk;
  }
};

template <class T, Major LA, Major LB>
struct MmaShared {
  static constexpr int Depth = T::BlockK;
  using A = Slab<LA, T::BlockM, Depth>;
  using B = Slab<LB, T::BlockN, Depth>;
  union {
    struct {
      A a[T::Stages];
      B b[T::Stages];
    } ring;
    float staged[T::BlockM][T::Pitch];  // the block's sums, after the product
  };
};

template <class T>
struct MmaSums {
  float v[T::FragM][T::FragN][4];
};

// Fragments of A: rows m .. m + 16, depths k .. k + 16 of the slab.
template <Major L, class S>
__device__ inline void load_a(S& slab, int m, int k, uint32_t (&a)[4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
  if constexpr (L == Major::Reduction)
    ptx::ldmatrix_x4(a, slab.at(m + (matrix & 1) * 8 + r, k / kChunk + (matrix >> 1)));
  else
    ptx::ldmatrix_x4_trans(a, slab.at(k + (matrix >> 1) * 8 + r, m / kChunk + (matrix & 1)));
}

// Fragments of B for columns n .. n + 8 (b[0], b[1]) and n + 8 .. n + 16 (b[2], b[3]).
template <Major L, class S>
__device__ inline void load_b(S& slab, int n, int k, uint32_t (&b)[4]) {
  const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
  if constexpr (L == Major::Reduction)
    ptx::ldmatrix_x4(b, slab.at(n + (matrix >> 1) * 8 + r, k / kChunk + (matrix & 1)));
  else
    ptx::ldmatrix_x4_trans(b, slab.at(k + (matrix & 1) * 8 + r, n / kChunk + (matrix >> 1)));
}

template <class E, class T, Major LA, Major LB>
__device__ inline void multiply(MmaShared<T, LA, LB>& s, int stage, MmaSums<T>& sums) {
  const int warp = threadIdx.x / 32, m0 = warp / T::WarpsN * T::WarpM, n0 = warp % T::WarpsN * T::WarpN;
#pragma unroll
  for (int k = 0; k < T::BlockK; k += 16) {
    uint32_t a[T::FragM][4], b[T::FragN / 2][4];
#pragma unroll
    for (int i = 0; i < T::FragM; ++i) load_a<LA>(s.ring.a[stage], m0 + 16 * i, k, a[i]);
#pragma unroll
    for (int j = 0; j < T::FragN / 2; ++j) load_b<LB>(s.ring.b[stage], n0 + 16 * j, k, b[j]);
#pragma unroll
    for (int i = 0; i < T::FragM; ++i)
#pragma unroll
      for (int j = 0; j < T::FragN; ++j) {
        const uint32_t pair[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
        ptx::mma_m16n8k16<E>(sums.v[i][j], a[i], pair);
      }
  }
}

// The block's sums, from all slabs, laid out as rows in shared memory. Operands::copy starts the copies
// of the next slab.
template <class E, class T, Major LA, Major LB, class Operands>
__device__ inline MmaShared<T, LA, LB>& mma_product(Operands& operands, int slabs) {
  using Shared = MmaShared<T, LA, LB>;
  static_assert(sizeof(Shared) == T::SharedBytes, "the tile record must say what is used");
  Shared& s = shared_memory<Shared>();
  MmaSums<T> sums = {};
#pragma unroll
  for (int k = 0; k < T::Stages - 1; ++k) {
    if (k < slabs) operands.copy(s.ring.a[k], s.ring.b[k]);
    ptx::cp_async_commit();
  }
  for (int k = 0; k < slabs; ++k) {
    ptx::cp_async_wait<T::Stages - 2>();
    __syncthreads();  // slab k is there for all, slab k - 1 has been read by all
    const int next = (k + T::Stages - 1) % T::Stages;
    if (k + T::Stages - 1 < slabs) operands.copy(s.ring.a[next], s.ring.b[next]);
    ptx::cp_async_commit();
    multiply<E>(s, k % T::Stages, sums);
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / T::WarpsN * T::WarpM + lane / 4, column = warp % T::WarpsN * T::WarpN + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < T::FragM; ++i)
#pragma unroll
    for (int j = 0; j < T::FragN; ++j) {
      float* at = &s.staged[row + 16 * i][column + 8 * j];
      const float* v = sums.v[i][j];
      *reinterpret_cast<float2*>(at) = make_float2(v[0], v[1]);
      *reinterpret_cast<float2*>(at + 8 * T::Pitch) = make_float2(v[2], v[3]);
    }
  __syncthreads();
  return s;
}

}  // namespace conv2d
