// The argument struct of the convolution kernels that gather with ordinary loads or cp.async.
#pragma once
#include "conv2d/gather.cuh"

namespace conv2d {

struct Args {
  const void* src;     // x (N, H, W, C) | dy (N, H', W', O)
  const void* other;   // w (O, kh, kw, C) | for dw: x
  const void* bias;    // (O) or null
  const void* shifts;  // forward: (N, O) or null
  void* dst;           // y | dx | dw
  float* partial;      // (ranges, O, kh, kw, C) f32 sums of dw, or null: one range, written to dst
  Shape shape;
  int accumulate;      // add to the old content of dst
  int range;           // pixels of one range of dw, a multiple of BlockK
  int unused;
};

}  // namespace conv2d
