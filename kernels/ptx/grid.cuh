// The kernel before and the kernel behind in a stream: programmatic dependent launch (Hopper and later; elsewhere nothing).
#pragma once

#ifdef __CUDACC__
namespace ptx {
// The kernel before has ended and its writes are visible; at once where this one was not started before that.
__device__ inline void grid_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel of the stream may start when every block has called it; it waits for this one's end all the same.
__device__ inline void grid_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
}  // namespace ptx
#else
#include "emulator/kernel.h"
namespace ptx {
inline void grid_wait() { emulator::grid_wait(); }
inline void grid_launch_dependents() {}
}  // namespace ptx
#endif
