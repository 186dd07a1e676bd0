// What changes from step to step, in device memory: the twin of `DeviceStep` in device.rs.
#pragma once
#include "common/export.cuh"

namespace adamw {

constexpr int kKinds = 16;  // settings that one run can mix

// Factors of one step for the weights of one kind.
struct Kind {
  float size;     // learning rate / (1 - beta1^t)
  float root;     // sqrt(1 - beta2^t)
  float shrink;   // 1 - learning rate * weight decay
  float fresh1;   // 1 - beta1
  float beta2;
  float fresh2;   // 1 - beta2
  float eps;
  float unused;
};

struct StepState {
  unsigned step;     // done
  unsigned stopped;  // 1 after a gradient that is not finite: nothing changes any more
  unsigned seed[2];
  float norm;        // of the mean gradient, before clipping
  float clip;        // what the mean gradient is multiplied by, 1 where it is short enough
  float factor;      // of the learning rate
  float fresh;       // 1 - decay of the moving average
  Kind kind[kKinds];
};

}  // namespace adamw
