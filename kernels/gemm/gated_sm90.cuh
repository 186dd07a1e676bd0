// Idea: the two products around a GEGLU where a backward pass follows: the layer keeps its sums, and the gradient of what the
// next layer got goes through the GEGLU before it is stored.
//
// kept_product: [v, g] = x w^T + b, out = v gelu(g), and v, g themselves. The tile is fused_sm90.cuh's; a chunk of values, one of
// gates and one of results leave one after the other.
// gated_input: dh = dy w stays in registers; dv = gelu(g) dh, dg = v gelu'(g) dh. A warp has two pairs of staging chunks: v and g of
// the next 16 rows arrive in one while dv and dg of the last leave the other, each in the place it is made from. Ping-pong: twice
// as many bytes as a plain product has come and go while the other consumer multiplies.
#pragma once
#include "gemm/fused_sm90.cuh"

namespace gemm {

// Both halves of the columns have maps of their own, so a ragged tile of values never reaches into the gates.
template <class T>
struct alignas(64) GatedArgs {
  TensorArgs<T> product;  // kept: as FusedArgs'; input: n columns of values, `out` is dv, `residual` is v
  ptx::TensorMap first;   // kept: values out; input: gates in
  ptx::TensorMap second;  // kept: gates out; input: gradient of the gates out
};

template <class T, class Tile>
struct KeptProduct : FusedProduct<T, Tile, Then::Gated> {
  using Fused = FusedProduct<T, Tile, Then::Gated>;
  const GatedArgs<T>& kept;

  __device__ inline void store_sums(const Unit& w, int row, int col, bool gates, const unsigned char* staging) const {
    ptx::tma_store_2d(gates ? &kept.second : &kept.first, staging, w.n * Fused::OutN + col, w.m * Tile::BlockM + row);
  }
};

template <class Tile, class Element>
struct Store<Tile, KeptProduct<Element, Tile>> : Store<Tile, FusedProduct<Element, Tile, Then::Gated>> {
  using Base = Store<Tile, FusedProduct<Element, Tile, Then::Gated>>;
  using P = KeptProduct<Element, Tile>;
  static constexpr int Values = 0, Gates = 1, Parts = 3;

  // Columns col .. col + 16 of one half of the sums.
  __device__ inline void stage_sums(const float* sums, const TileBias<Element>& bias, int col, unsigned char* staging,
                                    int p) const {
    uint32_t packed[4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float2 b = bias.pair(col + h * 8 + (Base::lane & 3) * 2);
      const float *x = sums + 4 * h, alpha = Base::problem.alpha();
      packed[2 * h] = ptx::pack<Element>(fmaf(alpha, x[0], b.x), fmaf(alpha, x[1], b.y));
      packed[2 * h + 1] = ptx::pack<Element>(fmaf(alpha, x[2], b.x), fmaf(alpha, x[3], b.y));
    }
    ptx::stmatrix_x4(staging + staging_offset<Tile>((Base::lane & 7) + (Base::lane & 8), 2 * p + (Base::lane >> 4)),
                     packed);
  }

  __device__ inline void tile(const Sums<Tile>& c, const Unit& w) {
    const P& problem = static_cast<const P&>(Base::problem);
#pragma unroll
    for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
      for (int q = 0; q < Base::Chunks; ++q)
#pragma unroll
        for (int part = 0; part < Parts; ++part, ++Base::seq) {
          if (ptx::elect_one()) ptx::tma_store_wait_read<1>();  // the store before last has left this buffer
          __syncwarp();
          unsigned char* staging = Base::s.out[Base::warp][Base::seq & 1];
#pragma unroll
          for (int p = 0; p < Tile::ChunkN / 16; ++p) {
            const int col = q * Tile::ChunkN + 16 * p;
            const float* sums = &c.v[i][col / 2];
            if (part == Values) stage_sums(sums, problem.bias(w, false), col, staging, p);
            else if (part == Gates) stage_sums(sums + P::OutN / 2, problem.bias(w, true), col, staging, p);
            else Base::stage(sums, w, col, staging, p);
          }
          ptx::fence_proxy_async();
          __syncwarp();
          if (ptx::elect_one()) {
            if (part < 2) problem.store_sums(w, Base::row_of(i), q * Tile::ChunkN, part == Gates, staging);
            else problem.store(w, Base::row_of(i), q * Tile::ChunkN, staging);
            ptx::tma_store_commit();
          }
        }
  }
};

template <class T, class Tile>
struct GatedInput : Product<T, Tile> {
  using Base = Product<T, Tile>;
  const GatedArgs<T>& gated;
  static_assert(!Tile::LeftMn && Tile::RightMn, "dx = dy w");
  static_assert(Tile::Buffers == 4, "two pairs of values and gates");

  __device__ inline bool has_residual() const { return false; }
  __device__ inline void load_sums(const Unit& w, int row, int col, bool gates, unsigned char* staging,
                                   uint64_t* bar) const {
    ptx::tma_load_2d(staging, gates ? &gated.first : &Base::a.residual, bar, w.n * Tile::BlockN + col,
                     w.m * Tile::BlockM + row);
  }
  __device__ inline void store(const Unit& w, int row, int col, bool gates, const unsigned char* staging) const {
    ptx::tma_store_2d(gates ? &gated.second : &Base::a.out, staging, w.n * Tile::BlockN + col,
                      w.m * Tile::BlockM + row);
  }
};

template <class Tile, class Element>
struct Store<Tile, GatedInput<Element, Tile>> {
  using P = GatedInput<Element, Tile>;
  static constexpr int Steps = Tile::MmaM * Tile::Chunks;
  const P& problem;
  Ring<Tile>& s;
  int lane, warp;
  int row0;
  uint32_t seq;  // counts pairs

  __device__ inline int row_of(int i) const { return row0 + i * 64 + (warp & 3) * kStoreRows; }
  __device__ inline unsigned char* half(uint32_t n, bool gates) const { return s.out[warp][(n & 1) * 2 + gates]; }

  // One lane: starts the copies of a step's values and gates.
  __device__ inline void fetch(const Unit& w, int step, uint32_t n) {
    uint64_t* bar = &s.residual[warp][n & 1];
    ptx::mbarrier_expect_tx(bar, 2 * Tile::ChunkBytes);
    const int row = row_of(step / Tile::Chunks), col = step % Tile::Chunks * Tile::ChunkN;
    problem.load_sums(w, row, col, false, half(n, false), bar);
    problem.load_sums(w, row, col, true, half(n, true), bar);
  }

  __device__ inline void begin(const Unit& w) {
    if (!ptx::elect_one()) return;
    ptx::tma_store_wait_read<0>();
    fetch(w, 0, seq);
  }

  // Columns 16 p .. 16 p + 16 of a chunk.
  __device__ inline void stage(const float* sums, unsigned char* values, unsigned char* gates, int p) const {
    const int at = staging_offset<Tile>((lane & 7) + (lane & 8), 2 * p + (lane >> 4));
    uint32_t v[4], g[4];
    ptx::ldmatrix_x4(v, values + at);
    ptx::ldmatrix_x4(g, gates + at);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 value = ptx::unpack<Element>(v[e]), gate = ptx::unpack<Element>(g[e]);
      const float a = problem.alpha() * sums[2 * e], b = problem.alpha() * sums[2 * e + 1];
      const math::Gelu f = math::gelu_with_slope(gate.x), h = math::gelu_with_slope(gate.y);
      v[e] = ptx::pack<Element>(f.value * a, h.value * b);
      g[e] = ptx::pack<Element>(value.x * f.slope * a, value.y * h.slope * b);
    }
    ptx::stmatrix_x4(values + at, v);
    ptx::stmatrix_x4(gates + at, g);
  }

  __device__ inline void tile(const Sums<Tile>& c, const Unit& w) {
#pragma unroll
    for (int i = 0; i < Tile::MmaM; ++i)
#pragma unroll
      for (int q = 0; q < Tile::Chunks; ++q, ++seq) {
        const int step = i * Tile::Chunks + q;
        if (step + 1 < Steps && ptx::elect_one()) {
          ptx::tma_store_wait_read<0>();  // the other pair is free again
          fetch(w, step + 1, seq + 1);
        }
        ptx::mbarrier_wait(&s.residual[warp][seq & 1], seq >> 1 & 1);
        unsigned char *values = half(seq, false), *gates = half(seq, true);
#pragma unroll
        for (int p = 0; p < Tile::ChunkN / 16; ++p)
          stage(&c.v[i][(q * Tile::ChunkN + 16 * p) / 2], values, gates, p);
        ptx::fence_proxy_async();
        __syncwarp();
        if (ptx::elect_one()) {
          problem.store(w, row_of(i), q * Tile::ChunkN, false, values);
          problem.store(w, row_of(i), q * Tile::ChunkN, true, gates);
          ptx::tma_store_commit();
        }
      }
  }
};

template <class T, class Tile>
__device__ inline void kept_product(const GatedArgs<T>& a) {
  pipeline<Tile>(KeptProduct<T, Tile>{{{a.product}, 0}, a});
}

template <class T, class Tile>
__device__ inline void gated_input(const GatedArgs<T>& a) {
  pipeline<Tile>(GatedInput<T, Tile>{{a.product}, a});
}

}  // namespace gemm
