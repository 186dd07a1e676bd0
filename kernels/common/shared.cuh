// The dynamic shared memory of a block as one typed struct.
#pragma once
#include "common/export.cuh"

// Uninitialised; a kernel's T::SharedBytes is sizeof(T). Static __shared__ variables are not used.
template <class T>
__device__ inline T& shared_memory() {
#ifdef __CUDACC__
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  return *reinterpret_cast<T*>(shared_bytes);
#else
  return *reinterpret_cast<T*>(emulator::here()->shared);
#endif
}
