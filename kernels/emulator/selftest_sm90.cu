// A product through everything a Hopper kernel uses (TMA, mbarriers, wgmma, stmatrix, clusters), whole
// and with one planted mistake each; compiled for the host only.   D = A B^T, A: (M, K), B: (N, K) or (K, N)
#include "common/element.cuh"
#include "common/shared.cuh"
#include "ptx/barrier.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

namespace selftest {

enum class Bug {
  None, EarlyRelease, WeakProductWait, NoProxyFence, WrongBytes, WrongCount, NoStoreWait,
  NoFullWait, NoStoreBarrier, SharedOverrun, PlainStoresNoFence,
  NoClusterStart
};

struct ProductArgs {
  ptx::TensorMap left;   // (M, K), box (64, 64)
  ptx::TensorMap right;  // (N, K), box (Cols / Cluster, 64), or (K, N), box (64, Span / 2)
  ptx::TensorMap out;    // (M, N), box (64, Cols), not swizzled
  float* sums;           // (M, N) f32, the same result before rounding
  int n, depth;          // N of the whole, K in slabs of 64
  unsigned past;         // planted: where SharedOverrun writes
};

template <class T_, int Cols_, int TransB_ = 0, int Span_ = 128, int Cluster_ = 1, Bug Plant_ = Bug::None>
struct ProductTile {
  using T = T_;
  static constexpr int Cols = Cols_, TransB = TransB_, Span = Span_, Cluster = Cluster_;
  static constexpr Bug Plant = Plant_;
  static constexpr int Consumers = 128, Threads = Consumers + 32;
  static constexpr int BlockRows = 64, BlockCols = Cols, Stages = 2, BlocksPerSm = 1;
  static constexpr int LeftBytes = 64 * 128, RightBytes = Cols * 128, OutBytes = 64 * Cols * 2;
  struct Shared {
    alignas(1024) unsigned char left[Stages][LeftBytes];
    alignas(1024) unsigned char right[Stages][RightBytes];
    alignas(1024) unsigned char out[OutBytes];
    uint64_t full[Stages], empty[Stages];
  };
  static constexpr int SharedBytes = sizeof(Shared);
};

template <class Tile>
__device__ void produce(typename Tile::Shared& s, const ProductArgs& a) {
  constexpr int Extra = Tile::Plant == Bug::WrongBytes ? 16 : 0;
  for (int k = 0; k < a.depth; ++k) {
    const int slot = k % Tile::Stages, phase = k / Tile::Stages & 1;
    ptx::mbarrier_wait(&s.empty[slot], phase ^ 1);
    ptx::mbarrier_expect_tx(&s.full[slot], Tile::LeftBytes + Tile::RightBytes + Extra);
    ptx::tma_load_2d(s.left[slot], &a.left, &s.full[slot], k * 64, int(blockIdx.x) * 64);
    const int n0 = int(blockIdx.y) * Tile::Cols;
    if constexpr (Tile::Cluster > 1) {
      constexpr int Rows = Tile::Cols / Tile::Cluster;
      const int r0 = int(ptx::cluster_rank()) * Rows;
      ptx::tma_load_2d_multicast(s.right[slot] + r0 * 128, &a.right, &s.full[slot], k * 64, n0 + r0,
                                 (1u << Tile::Cluster) - 1);
    } else if constexpr (Tile::TransB) {
      constexpr int Atom = Tile::Span / 2;
      for (int c = 0; c < Tile::Cols / Atom; ++c)
        ptx::tma_load_2d(s.right[slot] + c * 64 * Tile::Span, &a.right, &s.full[slot], n0 + c * Atom,
                         k * 64);
    } else {
      ptx::tma_load_2d(s.right[slot], &a.right, &s.full[slot], k * 64, n0);
    }
  }
}

// One arrival a warp, at every block that loads into this one's slot.
template <class Tile>
__device__ void release(typename Tile::Shared& s, int slot) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    for (int r = 0; r < Tile::Cluster; ++r) ptx::mbarrier_arrive_cluster(&s.empty[slot], r);
}

template <class Tile>
__device__ void multiply(typename Tile::Shared& s, const ProductArgs& a, float (&d)[Tile::Cols / 2]) {
  for (int k = 0; k < a.depth; ++k) {
    const int slot = k % Tile::Stages, phase = k / Tile::Stages & 1;
    if (Tile::Plant != Bug::NoFullWait) ptx::mbarrier_wait(&s.full[slot], phase);
    ptx::wgmma_fence();
    for (int step = 0; step < 4; ++step) {
      const uint64_t left = ptx::wgmma_descriptor_k(s.left[slot] + step * 32);
      const uint64_t right =
          Tile::TransB ? ptx::wgmma_descriptor(s.right[slot] + step * 16 * Tile::Span,
                                               64 * Tile::Span, 8 * Tile::Span, Tile::Span)
                       : ptx::wgmma_descriptor_k(s.right[slot] + step * 32);
      ptx::wgmma_ss<typename Tile::T, Tile::Cols, 0, Tile::TransB>(d, left, right, k + step > 0);
    }
    ptx::wgmma_commit();
    if (Tile::Plant == Bug::EarlyRelease) release<Tile>(s, slot);
    ptx::wgmma_wait<1>();
    if (Tile::Plant != Bug::EarlyRelease && k > 0) release<Tile>(s, (k - 1) % Tile::Stages);
  }
  if (Tile::Plant != Bug::WeakProductWait) ptx::wgmma_wait<0>();
  ptx::reg_fence(d);
}

template <class Tile>
__device__ void leave(typename Tile::Shared& s, const ProductArgs& a, const float (&d)[Tile::Cols / 2]) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int row = int(blockIdx.x) * 64 + warp * 16 + lane / 4, col = int(blockIdx.y) * Tile::Cols;
  for (int i = 0; i < Tile::Cols / 2; ++i) {
    const int r = row + i / 2 % 2 * 8, c = col + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (c < a.n) a.sums[r * a.n + c] = d[i];
  }
  for (int j = 0; j < Tile::Cols / 16; ++j) {
    uint32_t packed[4];
    for (int i = 0; i < 4; ++i)
      packed[i] = ptx::pack<typename Tile::T>(d[8 * j + 2 * i], d[8 * j + 2 * i + 1]);
    const int at = (warp * 16 + lane % 16) * Tile::Cols * 2 + j * 32 + lane / 16 * 16;
    if constexpr (Tile::Plant == Bug::PlainStoresNoFence) {
      for (int i = 0; i < 4; ++i) {
        const int r = warp * 16 + lane / 4 + i % 2 * 8, c = j * 16 + i / 2 * 8 + lane % 4 * 2;
        *reinterpret_cast<uint32_t*>(s.out + (r * Tile::Cols + c) * 2) = packed[i];
      }
    } else {
      ptx::stmatrix_x4(s.out + at, packed);
    }
  }
  if (Tile::Plant == Bug::SharedOverrun) reinterpret_cast<char*>(&s)[a.past + threadIdx.x] = 0;
  if (Tile::Plant != Bug::NoProxyFence && Tile::Plant != Bug::PlainStoresNoFence) ptx::fence_proxy_async();
  if (Tile::Plant != Bug::NoStoreBarrier) ptx::barrier_sync(1, Tile::Consumers);
  if (threadIdx.x != 0) return;
  ptx::tma_store_2d(&a.out, s.out, int(blockIdx.y) * Tile::Cols, int(blockIdx.x) * 64);
  ptx::tma_store_commit();
  if (Tile::Plant != Bug::NoStoreWait) ptx::tma_store_wait_read<0>();
}

template <class Tile>
__device__ void product(const ProductArgs& a) {
  auto& s = shared_memory<typename Tile::Shared>();
  if (threadIdx.x == 0) {
    for (int i = 0; i < Tile::Stages; ++i) {
      ptx::mbarrier_init(&s.full[i], 1);
      ptx::mbarrier_init(&s.empty[i], 4 * Tile::Cluster + (Tile::Plant == Bug::WrongCount));
    }
    ptx::mbarrier_fence_init();
  }
  if constexpr (Tile::Cluster > 1 && Tile::Plant != Bug::NoClusterStart) ptx::cluster_start();
  else __syncthreads();
  if (threadIdx.x >= Tile::Consumers) {
    if (threadIdx.x == Tile::Consumers) produce<Tile>(s, a);
  } else {
    float d[Tile::Cols / 2] = {};
    multiply<Tile>(s, a, d);
    leave<Tile>(s, a, d);
  }
  if constexpr (Tile::Cluster > 1) ptx::cluster_sync();
}

}  // namespace selftest

#define PRODUCT(NAME, ...)                  \
  using NAME##_t = selftest::ProductTile<__VA_ARGS__>; \
  EXPORT(NAME, NAME##_t, selftest::ProductArgs, selftest::product<NAME##_t>)
PRODUCT(product_bf16_n64, bf16, 64)
PRODUCT(product_f16_n80, f16, 80)
PRODUCT(product_bf16_n256, bf16, 256)
PRODUCT(product_bf16_n64_mn128, bf16, 64, 1, 128)
PRODUCT(product_bf16_n96_mn64, bf16, 96, 1, 64)
PRODUCT(product_f16_n48_mn32, f16, 48, 1, 32)
PRODUCT(product_bf16_n64_pair, bf16, 64, 0, 128, 2)
PRODUCT(product_early_release, bf16, 64, 0, 128, 1, selftest::Bug::EarlyRelease)
PRODUCT(product_weak_wait, bf16, 64, 0, 128, 1, selftest::Bug::WeakProductWait)
PRODUCT(product_no_proxy_fence, bf16, 64, 0, 128, 1, selftest::Bug::NoProxyFence)
PRODUCT(product_wrong_bytes, bf16, 64, 0, 128, 1, selftest::Bug::WrongBytes)
PRODUCT(product_wrong_count, bf16, 64, 0, 128, 1, selftest::Bug::WrongCount)
PRODUCT(product_no_store_wait, bf16, 64, 0, 128, 1, selftest::Bug::NoStoreWait)
PRODUCT(product_no_full_wait, bf16, 64, 0, 128, 1, selftest::Bug::NoFullWait)
PRODUCT(product_no_store_barrier, bf16, 64, 0, 128, 1, selftest::Bug::NoStoreBarrier)
PRODUCT(product_shared_overrun, bf16, 64, 0, 128, 1, selftest::Bug::SharedOverrun)
PRODUCT(product_plain_no_fence, bf16, 64, 0, 128, 1, selftest::Bug::PlainStoresNoFence)
PRODUCT(product_no_cluster_start, bf16, 64, 0, 128, 2, selftest::Bug::NoClusterStart)
