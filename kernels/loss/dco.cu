// direct consistency loss, f32.   L = softplus(x), x = beta / Len sum_i w_{i/C} ((pred - target)_i^2 - (ref - target)_i^2).
// pred, ref, target: (Len), w: (Len / C).  Saved: dL/d(mean) = beta sigmoid(x) (1).
// Work: 8 flop an element forward, 10 backward.  Bytes: 12 an element forward, 16 backward with dpred alone.
// SDXL latent 128x128x4, N=4: 3.1 MB -> 0.7 us at 4.3 TB/s: two launches are the cost.
// Tile: 256 threads, about 4096 elements a block.   Measured: see NOTES.md.
// Determinism: bitwise: f64 sums over a fixed tree, no atomics.   Requires: nothing; C % 4 != 0 goes element by element.
#include "loss/sums.cuh"

namespace dco {

using namespace loss;

struct Args {
  const float* pred;
  const float* reference;
  const float* target;
  const float* weight;
  const float* dout;    // (1), backward only
  float* slope;         // (1), saved
  double* partial;      // (parts)
  float* out[3];        // value, none, none; backward: d pred, d reference, d target, or d weight
  Count len;
  unsigned channels, parts;
  float beta;
  Mode mode[3];
};

__device__ inline bool whole(const Args& a) {
  return a.channels % 4 == 0 &&
         aligned(a.pred, a.reference, a.target, a.out[0], a.out[1], a.out[2]);
}

// Grid: parts.
__device__ inline void forward(const Args& a) {
  const double sum = sum_own(a.len, whole(a), [&]<int Vec>(Count at) {
    const Lane<Vec> pred = load_once<Vec>(a.pred + at), reference = load_once<Vec>(a.reference + at);
    const Lane<Vec> target = load_once<Vec>(a.target + at);
    double sum = 0.0;
    for (int k = 0; k < Vec; ++k) {
      const double now = pred.v[k] - target.v[k], before = reference.v[k] - target.v[k];
      sum += now * now - before * before;
    }
    return sum * a.weight[at / a.channels];
  });
  const double total = block_sum<SumTile::Threads>(shared_memory<Sums>(), sum);
  if (threadIdx.x == 0) a.partial[blockIdx.x] = total;
}

// One block. softplus and sigmoid in f64, without overflow.
__device__ inline void value(const Args& a) {
  const double sum = total_of(shared_memory<Sums>(), a.partial, a.parts);
  if (threadIdx.x != 0) return;
  const double x = double(a.beta) * sum * share(a.len);
  a.out[0][0] = float(fmax(x, 0.0) + log1p(exp(-fabs(x))));
  a.slope[0] = float(double(a.beta) / (1.0 + exp(-x)));
}

__device__ inline float factor(const Args& a) { return *a.dout * *a.slope / float(a.len); }

// Grid: Len.
__device__ inline void backward(const Args& a) {
  const float twice = 2.0f * factor(a);
  for_own<4>(a.len, whole(a), [&]<int Vec>(Count at) {
    const Lane<Vec> pred = load_once<Vec>(a.pred + at), reference = load_once<Vec>(a.reference + at);
    const Lane<Vec> target = load_once<Vec>(a.target + at);
    const float f = twice * a.weight[at / a.channels];
    Lane<Vec> d_pred, d_reference, d_target;
    for (int k = 0; k < Vec; ++k) {
      d_pred.v[k] = f * (pred.v[k] - target.v[k]);
      d_reference.v[k] = -f * (reference.v[k] - target.v[k]);
      d_target.v[k] = f * (reference.v[k] - pred.v[k]);
    }
    write<float, Vec>(a.out[0] + at, d_pred, a.mode[0]);
    write<float, Vec>(a.out[1] + at, d_reference, a.mode[1]);
    write<float, Vec>(a.out[2] + at, d_target, a.mode[2]);
  });
}

// Grid: positions (Len / C).
__device__ inline void backward_weight(const Args& a) {
  const float f = factor(a);
  for_own<1>(a.len / a.channels, true, [&]<int Vec>(Count p) {
    float sum = 0.0f;
    for (Count i = p * a.channels; i < (p + 1) * a.channels; ++i) {
      const float now = a.pred[i] - a.target[i], before = a.reference[i] - a.target[i];
      sum += now * now - before * before;
    }
    write<float, 1>(a.out[0] + p, {{f * sum}}, a.mode[0]);
  });
}

}  // namespace dco

EXPORT(dco_forward, loss::SumTile, dco::Args, dco::forward)
EXPORT(dco_value, loss::SumTile, dco::Args, dco::value)
EXPORT(dco_backward, elementwise::Tile<float>, dco::Args, dco::backward)
EXPORT(dco_weight, FlatTile<1>, dco::Args, dco::backward_weight)
