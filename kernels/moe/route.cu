// routing, f32 bf16 f16 logits.   The `slots` greatest logits of a token (ties: the lower expert) get a row each, ordered
// by expert, then token: choice, counts, offsets, rows and their inverse in one launch.   logits: (T, E), table: routing.cuh.
// Work: T E slots comparisons.  Bytes: sizeof(T) T E + 12 T slots.  T=616, E=8, slots 2: 25 KB: launch-bound.
// Tile: one block of 256 threads; a thread a token chooses, a warp an expert counts and places by ballots.   Measured: see NOTES.md.
// Determinism: bitwise, no atomics.   Requires: E <= 512. All experts (slots = E) need no choice: moe_route_dense.
#include "common/shared.cuh"
#include "moe/routing.cuh"

namespace moe {

template <class T>
struct RouteArgs {
  const T* logits;
  int* table;
  int tokens, experts, slots, unused;
};

constexpr int MaskWords = MaxExperts / 32;

struct RouteShared {
  unsigned chosen[MaskWords][256];  // by token of a chunk: a bit an expert
  int next[MaxExperts];             // counts, then the next free row of each expert
};

struct RouteTile {
  static constexpr int Threads = 256, Warps = 8, BlockRows = Threads, BlockCols = 1, Stages = 1;
  static constexpr int SharedBytes = sizeof(RouteShared), BlocksPerSm = 1;
};

// Whether the token of thread `of` goes to expert `e`.
__device__ inline bool goes_to(const RouteShared& s, int of, int e) { return s.chosen[e / 32][of] >> (e % 32) & 1; }

// The experts of this thread's token, as bits.
template <class T>
__device__ inline void choose(const RouteArgs<T>& a, RouteShared& s, int token) {
  const T* logits = a.logits + Count(token) * a.experts;
  const int own = int(threadIdx.x);
  for (int slot = 0; slot < a.slots; ++slot) {
    int best = -1;
    float most = 0.0f;
    for (int e = 0; e < a.experts; ++e) {
      if (goes_to(s, own, e)) continue;
      const float x = to_f32(logits[e]);
      if (best < 0 || x > most) best = e, most = x;
    }
    s.chosen[best / 32][own] |= 1u << (best % 32);
  }
}

// Slot of expert `e` among those of the token of thread `of`: they lie in ascending order.
__device__ inline int slot_of(const RouteShared& s, int of, int e) {
  int lower = __popc(s.chosen[e / 32][of] & ((1u << (e % 32)) - 1u));
  for (int word = 0; word < e / 32; ++word) lower += __popc(s.chosen[word][of]);
  return lower;
}

// Calls body(lane's token or -1, tokens of lower lanes, all tokens) for every 32 tokens of a chunk, for one expert.
template <class Body>
__device__ inline void for_tokens_of(const RouteShared& s, int e, const Body& body) {
  const int lane = int(threadIdx.x) % 32;
  for (int first = 0; first < RouteTile::Threads; first += 32) {
    const bool mine = goes_to(s, first + lane, e);
    const unsigned all = __ballot_sync(0xffffffffu, mine);
    body(mine ? first + lane : -1, __popc(all & ((1u << lane) - 1u)), __popc(all));
  }
}

// Chooses for the 256 tokens from `first`, and waits for all.
template <class T>
__device__ inline void choose_chunk(const RouteArgs<T>& a, RouteShared& s, int first) {
  const int token = first + int(threadIdx.x);
  for (int word = 0; word * 32 < a.experts; ++word) s.chosen[word][threadIdx.x] = 0;
  if (token < a.tokens) choose(a, s, token);
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
          const int at = (first + own) * a.slots + slot_of(s, own, e), row = next + before;
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
  for (int e = int(threadIdx.x); e < a.experts; e += RouteTile::Threads) s.next[e] = 0;
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
