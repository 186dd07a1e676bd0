// weighted sum of the experts, f32 bf16 f16.   w[t] = softmax over the top_k greatest logits of a token, 0 elsewhere;
// y[t] = sum_s w[t, s] rows[row[t, s]].   drows = w dy, dw = <dy, rows>, dlogit = w (dw - sum w dw).   rows: (R, C), logits: (T, E).
// Work: 2 T C slots flop forward, 4 backward.  Bytes: (1 + slots) T C sizeof(T) forward, (1 + 2 slots) backward.
// Feature fusion T=308, 4 experts, C=1024, bf16: 3.2 MB -> 0.7 us at 4.3 TB/s: launch-bound.
// Tile: a token a block of 128 threads, 16 bytes a thread and turn.   Measured: see NOTES.md.
// Determinism: bitwise: every row belongs to one slot; no atomics.   Requires: E <= 512; ragged and odd rows go one by one.
#include "common/block_sum.cuh"
#include "moe/routing.cuh"

namespace moe {

template <class T>
struct CombineArgs {
  const T* rows;
  const int* table;
  const T* logits;
  const T* dy;      // (T, C), backward only
  T* out;           // y (T, C), or drows (R, C)
  T* d_logits;      // (T, E), backward only
  int tokens, experts, slots, top_k;
  unsigned cols;
  Mode out_mode, logits_mode;
  int unused;
};

struct CombineTile {
  static constexpr int Threads = 128, BlockRows = 1, BlockCols = Threads, Stages = 1, BlocksPerSm = 8;
  static constexpr int SharedBytes = Threads * 8 + 4 * MaxExperts * 4;
};
struct CombineShared {
  BlockSum<CombineTile::Threads> sum;
  float score[MaxExperts];   // of a slot: its logit, or -inf where it is not among the top_k
  float weight[MaxExperts];  // of a slot
  float slope[MaxExperts];   // of a slot: dw
  int expert[MaxExperts];    // of a slot
};
static_assert(sizeof(CombineShared) == CombineTile::SharedBytes, "the record says what is used");

// Whether expert `e` is among the top_k of a token; ties as in route.cu.
template <class T>
__device__ inline bool selected(const CombineArgs<T>& a, const T* logits, int e) {
  const float x = to_f32(logits[e]);
  int before = 0;
  for (int other = 0; other < a.experts; ++other) {
    const float y = to_f32(logits[other]);
    before += y > x || (y == x && other < e) ? 1 : 0;
  }
  return before < a.top_k;
}

// Softmax of the selected slots of this block's token.
template <class T>
__device__ inline void weigh(const CombineArgs<T>& a, const Routing& r, CombineShared& s) {
  const T* logits = a.logits + Count(blockIdx.x) * a.experts;
  for (int slot = int(threadIdx.x); slot < a.slots; slot += CombineTile::Threads) {
    const int e = r.expert[Count(blockIdx.x) * a.slots + slot];
    s.expert[slot] = e;
    s.score[slot] = selected(a, logits, e) ? to_f32(logits[e]) : -INFINITY;
  }
  __syncthreads();
  for (int slot = int(threadIdx.x); slot < a.slots; slot += CombineTile::Threads) {
    float most = -INFINITY, sum = 0.0f;
    for (int i = 0; i < a.slots; ++i) most = fmaxf(most, s.score[i]);
    for (int i = 0; i < a.slots; ++i) sum += expf(s.score[i] - most);
    s.weight[slot] = expf(s.score[slot] - most) / sum;
  }
  __syncthreads();
}

// body.operator()<Vec>(col) for the columns of this thread.
template <class T, class Body>
__device__ inline void for_columns(const CombineArgs<T>& a, const Body& body) {
  constexpr int Vec = PerAccess<T>;
  const bool whole = a.cols % Vec == 0 && aligned(a.rows, a.dy, a.out);
  for (unsigned col = threadIdx.x * Vec; col < a.cols; col += CombineTile::Threads * Vec) {
    if (whole) {
      body.template operator()<Vec>(col);
    } else {
      for (unsigned k = col; k < col + Vec && k < a.cols; ++k) body.template operator()<1>(k);
    }
  }
}

template <class T>
__device__ inline Count row_of(const CombineArgs<T>& a, const Routing& r, int slot) {
  return Count(r.row[Count(blockIdx.x) * a.slots + slot]) * a.cols;
}

template <class T>
__device__ inline void combine(const CombineArgs<T>& a) {
  auto& s = shared_memory<CombineShared>();
  const Routing r = routing_at(a.table, Count(a.tokens) * a.slots);
  weigh(a, r, s);
  for_columns(a, [&]<int Vec>(unsigned col) {
    Lane<Vec> y = {};
    for (int slot = 0; slot < a.slots; ++slot) {
      if (s.weight[slot] == 0.0f) continue;
      const Lane<Vec> x = load_once<Vec>(a.rows + row_of(a, r, slot) + col);
      for (int k = 0; k < Vec; ++k) y.v[k] += s.weight[slot] * x.v[k];
    }
    store<Vec>(a.out + Count(blockIdx.x) * a.cols + col, y);
  });
}

// dw of one slot, or its part of the rows' gradient, or both.
template <class T>
__device__ inline void slot_backward(const CombineArgs<T>& a, const Routing& r, CombineShared& s, int slot) {
  const Count row = row_of(a, r, slot);
  const float w = s.weight[slot];
  double dot = 0.0;
  for_columns(a, [&]<int Vec>(unsigned col) {
    Lane<Vec> g = load<Vec>(a.dy + Count(blockIdx.x) * a.cols + col);
    if (a.logits_mode != Mode::Skip && w != 0.0f) {
      const Lane<Vec> x = load_once<Vec>(a.rows + row + col);
      float part = 0.0f;
      for (int k = 0; k < Vec; ++k) part += g.v[k] * x.v[k];
      dot += part;
    }
    for (int k = 0; k < Vec; ++k) g.v[k] *= w;
    write<T, Vec>(a.out + row + col, g, a.out_mode);
  });
  if (a.logits_mode == Mode::Skip) return;
  const double total = block_sum<CombineTile::Threads>(s.sum, dot);
  if (threadIdx.x == 0) s.slope[slot] = float(total);
}

template <class T>
__device__ inline void combine_backward(const CombineArgs<T>& a) {
  auto& s = shared_memory<CombineShared>();
  const Routing r = routing_at(a.table, Count(a.tokens) * a.slots);
  weigh(a, r, s);
  for (int slot = 0; slot < a.slots; ++slot) slot_backward(a, r, s, slot);
  __syncthreads();
  if (a.logits_mode == Mode::Skip) return;
  float mean = 0.0f;
  for (int slot = 0; slot < a.slots; ++slot) mean += s.weight[slot] * s.slope[slot];
  for (int e = int(threadIdx.x); e < a.experts; e += CombineTile::Threads) {
    Lane<1> d = {};
    for (int slot = 0; slot < a.slots; ++slot)
      if (s.expert[slot] == e) d.v[0] = s.weight[slot] * (s.slope[slot] - mean);
    write<T, 1>(a.d_logits + Count(blockIdx.x) * a.experts + e, d, a.logits_mode);
  }
}

}  // namespace moe

EXPORT(moe_combine_f32, moe::CombineTile, moe::CombineArgs<float>, moe::combine<float>)
EXPORT(moe_combine_bf16, moe::CombineTile, moe::CombineArgs<bf16>, moe::combine<bf16>)
EXPORT(moe_combine_f16, moe::CombineTile, moe::CombineArgs<f16>, moe::combine<f16>)
EXPORT(moe_combine_backward_f32, moe::CombineTile, moe::CombineArgs<float>, moe::combine_backward<float>)
EXPORT(moe_combine_backward_bf16, moe::CombineTile, moe::CombineArgs<bf16>, moe::combine_backward<bf16>)
EXPORT(moe_combine_backward_f16, moe::CombineTile, moe::CombineArgs<f16>, moe::combine_backward<f16>)
