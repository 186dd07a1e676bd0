// `Vec` consecutive elements of type T as floats, moved by accesses of at most 16 bytes.
#pragma once
#include "common/element.cuh"
#include "common/export.cuh"
#include "ptx/convert.cuh"
#include "ptx/global.cuh"

template <int Vec>
struct Lane {
  float v[Vec];
};

namespace vector {

// Elements of one access: 16 bytes at most, and all of a shorter vector.
template <class T, int Vec>
constexpr int kAccess = Vec * int(sizeof(T)) <= 16 ? Vec : 16 / int(sizeof(T));

// One access as 32-bit words, each of one float or two 16-bit elements.
template <class T>
__device__ inline float element(unsigned word, int half) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(word);
  } else {
    return to_f32(T{(unsigned short)(half ? word >> 16 : word)});
  }
}

template <class T>
__device__ inline unsigned word(const float* v) {
  if constexpr (sizeof(T) == 4) {
    return __float_as_uint(v[0]);
  } else {
    return ptx::pack<T>(v[0], v[1]);
  }
}

template <class T, int Words>
__device__ inline void unpack(const unsigned (&w)[Words], float* v) {
  constexpr int PerWord = 4 / int(sizeof(T));
#pragma unroll
  for (int i = 0; i < Words * PerWord; ++i) v[i] = element<T>(w[i / PerWord], i % PerWord);
}

// `Once`: nobody writes the data while the kernel runs and it is read once.
template <class T, int N, bool Once>
__device__ inline void load_access(const T* p, float* v) {
  constexpr int Bytes = N * int(sizeof(T));
  if constexpr (Bytes == 16) {
    uint4 q;
    if constexpr (Once) {
      const float4 f = ptx::load_once_v4(reinterpret_cast<const float*>(p));
      q = make_uint4(__float_as_uint(f.x), __float_as_uint(f.y), __float_as_uint(f.z),
                     __float_as_uint(f.w));
    } else {
      q = *reinterpret_cast<const uint4*>(p);
    }
    const unsigned w[4] = {q.x, q.y, q.z, q.w};
    unpack<T>(w, v);
  } else if constexpr (Bytes == 8) {
    const uint2 q = *reinterpret_cast<const uint2*>(p);
    const unsigned w[2] = {q.x, q.y};
    unpack<T>(w, v);
  } else if constexpr (Bytes == 4 && sizeof(T) == 2) {
    const unsigned w[1] = {*reinterpret_cast<const unsigned*>(p)};
    unpack<T>(w, v);
  } else {
    static_assert(N == 1, "1, 2, 4 or 8 elements");
    if constexpr (Once && sizeof(T) == 4) {
      *v = ptx::load_once(reinterpret_cast<const float*>(p));
    } else {
      *v = to_f32(*p);
    }
  }
}

template <class T, int N>
__device__ inline void store_access(T* p, const float* v) {
  constexpr int Bytes = N * int(sizeof(T)), Step = 4 / int(sizeof(T));
  if constexpr (Bytes == 16) {
    *reinterpret_cast<uint4*>(p) =
        make_uint4(word<T>(v), word<T>(v + Step), word<T>(v + 2 * Step), word<T>(v + 3 * Step));
  } else if constexpr (Bytes == 8) {
    *reinterpret_cast<uint2*>(p) = make_uint2(word<T>(v), word<T>(v + Step));
  } else if constexpr (Bytes == 4 && sizeof(T) == 2) {
    *reinterpret_cast<unsigned*>(p) = word<T>(v);
  } else {
    static_assert(N == 1, "1, 2, 4 or 8 elements");
    *p = from_f32<T>(*v);
  }
}

}  // namespace vector

// Data that this kernel reads once and nobody writes meanwhile.
template <int Vec, class T>
__device__ inline Lane<Vec> load_once(const T* p) {
  constexpr int N = vector::kAccess<T, Vec>;
  Lane<Vec> x;
#pragma unroll
  for (int i = 0; i < Vec; i += N) vector::load_access<T, N, true>(p + i, x.v + i);
  return x;
}

// Data that this kernel also writes (the old value of a gradient), or that is read again.
template <int Vec, class T>
__device__ inline Lane<Vec> load(const T* p) {
  constexpr int N = vector::kAccess<T, Vec>;
  Lane<Vec> x;
#pragma unroll
  for (int i = 0; i < Vec; i += N) vector::load_access<T, N, false>(p + i, x.v + i);
  return x;
}

template <int Vec, class T>
__device__ inline void store(T* p, const Lane<Vec>& x) {
  constexpr int N = vector::kAccess<T, Vec>;
#pragma unroll
  for (int i = 0; i < Vec; i += N) vector::store_access<T, N>(p + i, x.v + i);
}
