// One access of `Vec` consecutive floats: 16 bytes when Vec is 4.
#pragma once
#include "common/export.cuh"
#include "ptx/global.cuh"

template <int Vec>
struct Lane {
  float v[Vec];
};

// Data that this kernel reads once and nobody writes meanwhile.
template <int Vec>
__device__ inline Lane<Vec> load_once(const float* p) {
  if constexpr (Vec == 4) {
    const float4 q = ptx::load_once_v4(p);
    return {{q.x, q.y, q.z, q.w}};
  } else {
    return {{ptx::load_once(p)}};
  }
}

// Data that this kernel also writes (the old value of a gradient).
template <int Vec>
__device__ inline Lane<Vec> load(const float* p) {
  if constexpr (Vec == 4) {
    const float4 q = *reinterpret_cast<const float4*>(p);
    return {{q.x, q.y, q.z, q.w}};
  } else {
    return {{*p}};
  }
}

template <int Vec>
__device__ inline void store(float* p, const Lane<Vec>& x) {
  if constexpr (Vec == 4) {
    *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  } else {
    *p = x.v[0];
  }
}
