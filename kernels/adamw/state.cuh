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

// Where the scale of the loss stands; all 0 without scaling.
struct Scale {
  float value;        // what the gradient of the next loss starts from
  unsigned good;      // updates in a row that were not skipped, since the scale last changed
  unsigned skipped;   // in all
  unsigned in_a_row;  // skipped, up to the last one
};

struct StepState {
  unsigned step;     // done, skipped ones included
  unsigned stopped;  // 1 after a gradient that is not finite, without scaling: nothing changes any more
  unsigned seed[2];
  float norm;        // of the mean gradient, before clipping
  float clip;        // what the mean gradient is multiplied by, 1 where it is short enough
  float factor;      // of the learning rate
  float fresh;       // 1 - decay of the moving average
  Scale scale;
  float unit;        // what the gradient was multiplied by to be the mean: 1 / passes / scale
  unsigned unused[3];
  Kind kind[kKinds];
};

}  // namespace adamw
