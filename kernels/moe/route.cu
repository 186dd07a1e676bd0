// routing, f32 bf16 f16 logits.   The `slots` greatest logits of a token (ties: the lower expert) get a row each, ordered
// by expert, then token: choice, counts, offsets, rows and their inverse in one launch.   logits: (T, E), table: routing.cuh.
// Work: T E slots comparisons.  Bytes: sizeof(T) T E + 12 T slots.  T=616, E=8, slots 2: 25 KB: launch-bound.
// Tile: one block of 256 threads; a thread a token chooses, a warp an expert counts and places by ballots.   Measured: see NOTES.md.
// Determinism: bitwise, no atomics.   Requires: E <= 64. All experts (slots = E) need no choice: moe_route_dense.
#include "common/shared.cuh"
#include "moe/routing.cuh"

namespace moe {

template <class T>
struct RouteArgs {
  const T* logits;
  int* table;
  int tokens, experts, slots, unused;
};

struct RouteShared {
  unsigned long long chosen[256];  // by token of a chunk: a bit an expert
  int next[MaxExperts];            // counts, then the next free row of each expert
};

struct RouteTile {
  static constexpr int Threads = 256, Warps = 8, BlockRows = Threads, BlockCols = 1, Stages = 1;
  static constexpr int SharedBytes = sizeof(RouteShared), BlocksPerSm = 1;
};

// The experts of one token, as bits.
template <class T>
__device__ inline unsigned long long choose(const RouteArgs<T>& a, int token) {
  const T* logits = a.logits + Count(token) * a.experts;
  unsigned long long taken = 0;
  for (int slot = 0; slot < a.slots; ++slot) {
    int best = -1;
    float most = 0.0f;
    for (int e = 0; e < a.experts; ++e) {
      if (taken >> e & 1) continue;
      const float x = to_f32(logits[e]);
      if (best < 0 || x > most) best = e, most = x;
    }
    taken |= 1ull << best;
  }
  return taken;
}

// Slot of expert `e` among the chosen: they lie in ascending order.
__device__ inline int slot_of(unsigned long long chosen, int e) {
  const unsigned long long lower = chosen & ((1ull << e) - 1);
  return __popc(unsigned(lower)) + __popc(unsigned(lower >> 32));
}

// Calls body(lane's token or -1, tokens of lower lanes, all tokens) for every 32 tokens of a chunk, for one expert.
template <class Body>
__device__ inline void for_tokens_of(const RouteShared& s, int e, const Body& body) {
  const int lane = int(threadIdx.x) % 32;
  for (int first = 0; first < RouteTile::Threads; first += 32) {
    const bool mine = s.chosen[first + lane] >> e & 1;
    const unsigned all = __ballot_sync(0xffffffffu, mine);
    body(mine ? first + lane : -1, __popc(all & ((1u << lane) - 1u)), __popc(all));
  }
}

// Chooses for the 256 tokens from `first`, and waits for all.
template <class T>
__device__ inline void choose_chunk(const RouteArgs<T>& a, RouteShared& s, int first) {
  const int token = first + int(threadIdx.x);
  s.chosen[threadIdx.x] = token < a.tokens ? choose(a, token) : 0;
  __syncthreads();
}

template <class T>
__device__ inline void count_chosen(const RouteArgs<T>& a, RouteShared& s) {
  for (int first = 0; first < a.tokens; first += RouteTile::Threads) {
    choose_chunk(a, s, first);
    for (int e = int(threadIdx.x) / 32; e < a.experts; e += RouteTile::Warps) {
      int count = 0;
      for_tokens_of(s, e, [&](int, int, int all) { count += all; });
      if (threadIdx.x % 32 == 0) s.next[e] += count;
    }
    __syncthreads();
  }
}

// Chooses again: logits are cheaper to read twice than to keep for any number of tokens.
template <class T>
__device__ inline void place_chosen(const RouteArgs<T>& a, const Routing& r, RouteShared& s) {
  for (int first = 0; first < a.tokens; first += RouteTile::Threads) {
    choose_chunk(a, s, first);
    for (int e = int(threadIdx.x) / 32; e < a.experts; e += RouteTile::Warps) {
      int next = s.next[e];
      for_tokens_of(s, e, [&](int own, int before, int all) {
        if (own >= 0) {
          const int at = (first + own) * a.slots + slot_of(s.chosen[own], e), row = next + before;
          r.expert[at] = e;
          r.row[at] = row;
          r.source[row] = at;
        }
        next += all;
      });
      __syncwarp();
      if (threadIdx.x % 32 == 0) s.next[e] = next;
    }
    __syncthreads();
  }
}

template <class T>
__device__ inline void route(const RouteArgs<T>& a) {
  auto& s = shared_memory<RouteShared>();
  const Routing r = routing_at(a.table, Count(a.tokens) * a.slots);
  if (threadIdx.x < MaxExperts) s.next[threadIdx.x] = 0;
  __syncthreads();
  count_chosen(a, s);
  if (threadIdx.x == 0) {
    int row = 0;
    for (int e = 0; e < a.experts; ++e) {
      const int count = s.next[e];
      r.offset[e] = s.next[e] = row;
      row += count;
    }
    r.offset[a.experts] = row;
  }
  __syncthreads();
  place_chosen(a, r, s);
}

// Every token to every expert: slot e of a token is expert e.
struct DenseArgs {
  int* table;
  int tokens, experts;
};
__device__ inline void route_dense(const DenseArgs& a) {
  const Count rows = Count(a.tokens) * a.experts;
  const Routing r = routing_at(a.table, rows);
  for_own<1>(rows > Count(a.experts) ? rows : a.experts + 1, true, [&]<int Vec>(Count i) {
    if (i <= Count(a.experts)) r.offset[i] = int(i) * a.tokens;
    if (i >= rows) return;
    const Cell slot = cell<1>(i, unsigned(a.experts));
    const int row = int(slot.col) * a.tokens + int(slot.row);
    r.row[i] = row;
    r.expert[i] = int(slot.col);
    r.source[row] = int(i);
  });
}

}  // namespace moe

EXPORT(moe_route_f32, moe::RouteTile, moe::RouteArgs<float>, moe::route<float>)
EXPORT(moe_route_bf16, moe::RouteTile, moe::RouteArgs<bf16>, moe::route<bf16>)
EXPORT(moe_route_f16, moe::RouteTile, moe::RouteArgs<f16>, moe::route<f16>)
EXPORT(moe_route_dense, FlatTile<1>, moe::DenseArgs, moe::route_dense)
