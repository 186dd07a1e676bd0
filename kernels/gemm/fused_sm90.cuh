// Idea: the Hopper product with an activation or GEGLU between the sums and the store; forward only.
//
// GEGLU, out = value gelu(gate): a tile's right operand is BlockN / 2 rows of values and the BlockN / 2 rows of gates that
// belong to them, one half loaded by each block of the cluster. So a value and its gate are accumulators of one thread, the
// weight stays as it is, and the wide intermediate is never written.
#pragma once
#include "common/math.cuh"
#include "gemm/problem_sm90.cuh"

namespace gemm {

enum class Then { Activation, Gated };

// As activation.cu has them.
__device__ inline float activate(int kind, float x) {
  constexpr int Gelu = 1, QuickGelu = 2, Relu = 3;
  if (kind == Gelu) return math::gelu(x);
  if (kind == Relu) return fmaxf(x, 0.0f);
  return x * math::sigmoid(kind == QuickGelu ? 1.702f * x : x);
}

template <class T>
struct alignas(64) FusedArgs {
  TensorArgs<T> product;  // n: rows of the weight; out has n, or n / 2 columns
  int activation;
};

template <class T, class Tile, Then After>
struct FusedProduct : Product<T, Tile> {
  using Base = Product<T, Tile>;
  int activation;
  static constexpr bool Gated = After == Then::Gated;
  static constexpr int OutN = Gated ? Tile::BlockN / 2 : Tile::BlockN;  // output columns of a tile
  static_assert(!Gated || Tile::Cluster == 2, "one block brings the values, the other the gates");
  static_assert(!Tile::LeftMn && !Tile::RightMn, "forward only");
  static_assert(OutN % Tile::ChunkN == 0, "whole staging chunks");

  __device__ inline void load(typename Base::Cursor& c, unsigned char* left, unsigned char* right, uint64_t* bar,
                              int rank) const {
    if constexpr (!Gated) {
      Base::load(c, left, right, bar, rank);
    } else {
      const Unit& w = c.w;
      const int k0 = (w.first + c.k++) * kSlab, half = rank == 0 ? 0 : Base::a.n / 2;
      ptx::tma_load_2d(left, &Base::a.left, bar, k0, w.m * Tile::BlockM);
      ptx::tma_load_2d_multicast(right + rank * OutN * 128, &Base::a.right, bar, k0, half + w.n * OutN, 3);
    }
  }
  // Of the values (or all columns), and of the gates.
  __device__ inline TileBias<T> bias(const Unit& w, bool gates) const {
    const int n0 = w.n * OutN, columns = Gated ? Base::a.n / 2 : Base::a.n;
    return {Base::a.bias + n0 + (gates ? columns : 0), Base::a.bias ? columns - n0 : 0};
  }
  __device__ inline void load_residual(const Unit& w, int row, int col, unsigned char* staging,
                                       uint64_t* bar) const {
    ptx::tma_load_2d(staging, &Base::a.residual, bar, w.n * OutN + col, w.m * Tile::BlockM + row);
  }
  __device__ inline void store(const Unit& w, int row, int col, const unsigned char* staging) const {
    ptx::tma_store_2d(&Base::a.out, staging, w.n * OutN + col, w.m * Tile::BlockM + row);
  }
};

// epilogue_sm90.cuh's Store with the function in between.
template <class Tile, class Element, Then After>
struct Store<Tile, FusedProduct<Element, Tile, After>> {
  using P = FusedProduct<Element, Tile, After>;
  static constexpr int Chunks = P::OutN / Tile::ChunkN;
  const P& problem;
  Ring<Tile>& s;
  int lane, warp;
  int row0;
  uint32_t seq;

  __device__ inline int row_of(int i) const { return row0 + i * 64 + (warp & 3) * kStoreRows; }

  __device__ inline void fetch_residual(const Unit& w, int row, int chunk, uint32_t n) {
    uint64_t* bar = &s.residual[warp][n & 1];
    ptx::mbarrier_expect_tx(bar, Tile::ChunkBytes);
    problem.load_residual(w, row, chunk * Tile::ChunkN, s.out[warp][n & 1], bar);
  }

  __device__ inline void begin(const Unit& w) {
    if (!problem.has_residual() || !ptx::elect_one()) return;
    ptx::tma_store_wait_read<0>();
    fetch_residual(w, row_of(0), 0, seq);
  }

  __device__ inline void enter(const Unit& w, int i, int q) {
    if (problem.has_residual()) {
      if (ptx::elect_one()) {
        ptx::tma_store_wait_read<0>();
        if (q + 1 < Chunks) fetch_residual(w, row_of(i), q + 1, seq + 1);
        else if (i + 1 < Tile::MmaM) fetch_residual(w, row_of(i + 1), 0, seq + 1);
      }
      ptx::mbarrier_wait(&s.residual[warp][seq & 1], seq >> 1 & 1);
    } else {
      if (ptx::elect_one()) ptx::tma_store_wait_read<1>();
      __syncwarp();
    }
  }

  // Results 2 e, 2 e + 1 of 8 columns (e: row) from sums `x` and, gated, `g`.
  __device__ inline float2 pair(const float* x, const float* g, float2 bias, float2 gate_bias) const {
    const float alpha = problem.alpha();
    const float a = fmaf(alpha, x[0], bias.x), b = fmaf(alpha, x[1], bias.y);
    if constexpr (P::Gated)
      return make_float2(a * math::gelu(fmaf(alpha, g[0], gate_bias.x)),
                         b * math::gelu(fmaf(alpha, g[1], gate_bias.y)));
    else return make_float2(activate(problem.activation, a), activate(problem.activation, b));
  }

  // Columns col .. col + 16 of the tile's output.
  __device__ inline void stage(const float* sums, const Unit& w, int col, unsigned char* staging, int p) {
    const TileBias<Element> bias = problem.bias(w, false), gates = problem.bias(w, true);
    uint32_t packed[4], old[4];
    unsigned char* at = staging + staging_offset<Tile>((lane & 7) + (lane & 8), 2 * p + (lane >> 4));
    if (problem.has_residual()) ptx::ldmatrix_x4(old, at);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int c = col + h * 8 + (lane & 3) * 2;
      const float2 b = bias.pair(c), gb = P::Gated ? gates.pair(c) : b;
      const float *x = sums + 4 * h, *g = P::Gated ? x + P::OutN / 2 : x;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float2 v = pair(x + 2 * e, g + 2 * e, b, gb);
        if (problem.has_residual()) {
          const float2 r = ptx::unpack<Element>(old[2 * h + e]);
          v.x += r.x, v.y += r.y;
        }
        packed[2 * h + e] = ptx::pack<Element>(v.x, v.y);
      }
    }
    ptx::stmatrix_x4(at, packed);
  }

  __device__ inline void tile(const Sums<Tile>& c, const Unit& w) {
#pragma unroll
    for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
      for (int q = 0; q < Chunks; ++q, ++seq) {
        enter(w, i, q);
        unsigned char* staging = s.out[warp][seq & 1];
#pragma unroll
        for (int p = 0; p < Tile::ChunkN / 16; ++p) {
          const int col = q * Tile::ChunkN + 16 * p;
          stage(&c.v[i][col / 2], w, col, staging, p);
        }
        ptx::fence_proxy_async();
        __syncwarp();
        if (ptx::elect_one()) {
          problem.store(w, row_of(i), q * Tile::ChunkN, staging);
          ptx::tma_store_commit();
        }
      }
  }
};

template <class T, class Tile, Then After>
__device__ inline void fused_product(const FusedArgs<T>& a) {
  pipeline<Tile>(FusedProduct<T, Tile, After>{{a.product}, a.activation});
}

}  // namespace gemm
