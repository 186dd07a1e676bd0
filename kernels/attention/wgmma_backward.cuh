// Shared by the Hopper backward kernels: probabilities and gradients of scores in registers, old gradients.
#pragma once
#include "attention/wgmma_tile.cuh"

namespace attention {

// S -> P = exp2(S * scale_log2 - lse) in place. ForQ: rows are queries, lse in two registers; else columns
// are, lse read from shared memory (a broadcast).
template <bool ForQ>
__device__ __forceinline__ void to_probabilities(float (&s)[64], float scale_log2, const float (&row_lse)[2],
                                                 uint32_t sLse, int keys_left) {
  const int t = group_column();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    const float2 l = ForQ ? float2{} : ptx::load_shared_v2(sLse + (n * 8 + t) * 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float& x = s[4 * n + i];
      x = ptx::exp2_approx(__fmaf_rn(x, scale_log2, -(ForQ ? row_lse[i >> 1] : i & 1 ? l.y : l.x)));
    }
  }
  if (ForQ && keys_left < 128)  // K is zero past Lk, but inf * 0 must not happen
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if ((i >> 2) * 8 + t + (i & 1) >= keys_left) s[i] = 0.0f;
}

// dP -> dS = P o (dP - delta) in place.
template <bool ForQ>
__device__ __forceinline__ void to_d_scores(float (&dp)[64], const float (&p)[64],
                                            const float (&row_delta)[2], uint32_t sDelta) {
  const int t = group_column();
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    const float2 d = ForQ ? float2{} : ptx::load_shared_v2(sDelta + (n * 8 + t) * 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = 4 * n + i;
      dp[j] = p[j] * (dp[j] - (ForQ ? row_delta[i >> 1] : i & 1 ? d.y : d.x));
    }
  }
}

// acc = acc * scale + the old content of the 64 gradient rows of this warpgroup, where `add`. Work: r0, first row of the
// block; head, sample.
template <class T, class Work>
__device__ __forceinline__ void add_old(float (&acc)[32], float scale, const void* to, const Work& w, int len,
                                        int heads, int wg, bool add) {
  const int row = w.r0 + wg * 64 + group_row();
  const T* old = static_cast<const T*>(to) + (((long long)w.sample * len + row) * heads + w.head) * 64;
#pragma unroll
  for (int i = 0; i < 32; ++i) acc[i] *= scale;
  if (!add) return;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (row + 8 * h >= len) continue;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const T* at = old + (long long)8 * h * heads * 64 + n * 8 + group_column();
      const float2 x = ptx::unpack<T>(*reinterpret_cast<const uint32_t*>(at));
      acc[4 * n + 2 * h] += x.x, acc[4 * n + 2 * h + 1] += x.y;
    }
  }
}

}  // namespace attention
