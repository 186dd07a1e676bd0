// masked squared error, f32, value and gradient in one pass.   L = sum_n coef_n / Each sum_i w_{n, i/C} (pred - target)_{n,i}^2.
// pred, target: (N, Each), w: (N, Each / C), coef: (N).  Saved: dL/dpred (N, Each).
// Work: 6 flop an element.  Bytes: 12 an element forward, 12 backward (saved in; dpred and dtarget out).
// SDXL latent 128x128x4, N=4: 3.1 MB -> 0.7 us at 4.3 TB/s: two launches are the cost.
// Tile: 256 threads, one sample a blockIdx.y, about 4096 elements a block.   Measured: see NOTES.md.
// Determinism: bitwise: f64 sums over a fixed tree, no atomics.   Requires: nothing; C % 4 != 0 goes element by element.
#include "loss/sums.cuh"

namespace masked_mse {

using namespace loss;

struct Args {
  const float* pred;         // (N, Each)
  const float* target;       // (N, Each)
  const float* weight;       // (N, Each / C)
  const float* coefficient;  // (N)
  const float* dout;         // (1), backward only
  float* saved;              // dL/dpred (N, Each)
  double* partial;           // (N, parts)
  float* out[2];             // value, none; backward: d pred, d target, or d weight, or d coefficient
  Count each;
  unsigned channels, samples, parts;
  Mode mode[2];
  int unused;
};

__device__ inline bool whole(const Args& a) {
  return a.channels % 4 == 0 && aligned(a.pred, a.target, a.saved, a.out[0], a.out[1]);
}

// Vec errors of one position's channels, and its weight.
template <int Vec>
struct Errors {
  Lane<Vec> e;
  float weight;
};
template <int Vec>
__device__ inline Errors<Vec> errors(const Args& a, Count at) {
  Errors<Vec> x = {load_once<Vec>(a.pred + at), a.weight[at / a.channels]};
  const Lane<Vec> target = load_once<Vec>(a.target + at);
  for (int k = 0; k < Vec; ++k) x.e.v[k] -= target.v[k];
  return x;
}

// Grid: parts, samples.
__device__ inline void forward(const Args& a) {
  const double factor = double(a.coefficient[blockIdx.y]) * share(a.each);
  const float slope = float(2.0 * factor);
  const Count sample = blockIdx.y * a.each;
  const double sum = sum_own(a.each, whole(a), [&]<int Vec>(Count at) {
    Errors<Vec> x = errors<Vec>(a, sample + at);
    double sum = 0.0;
    for (int k = 0; k < Vec; ++k) {
      const float weighted = x.weight * x.e.v[k];
      sum += double(weighted * x.e.v[k]);
      x.e.v[k] = slope * weighted;
    }
    store<Vec>(a.saved + sample + at, x.e);
    return sum;
  });
  const double total = block_sum<SumTile::Threads>(shared_memory<Sums>(), sum);
  if (threadIdx.x == 0) a.partial[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// One block.
__device__ inline void value(const Args& a) {
  double loss = 0.0;
  for (unsigned n = 0; n < a.samples; ++n)
    loss += double(a.coefficient[n]) * share(a.each) *
            total_of(shared_memory<Sums>(), a.partial + Count(n) * a.parts, a.parts);
  if (threadIdx.x == 0) a.out[0][0] = float(loss);
}

// Grid: N Each.
__device__ inline void backward(const Args& a) {
  const float g = *a.dout;
  for_own<4>(a.each * a.samples, aligned(a.saved, a.out[0], a.out[1]), [&]<int Vec>(Count at) {
    Lane<Vec> d = load_once<Vec>(a.saved + at);
    for (int k = 0; k < Vec; ++k) d.v[k] *= g;
    write<float, Vec>(a.out[0] + at, d, a.mode[0]);
    for (int k = 0; k < Vec; ++k) d.v[k] = -d.v[k];
    write<float, Vec>(a.out[1] + at, d, a.mode[1]);
  });
}

// Grid: positions (N Each / C).
__device__ inline void backward_weight(const Args& a) {
  const Count positions = a.each / a.channels;
  for_own<1>(positions * a.samples, true, [&]<int Vec>(Count p) {
    double sum = 0.0;
    for (unsigned c = 0; c < a.channels; ++c) {
      const double e = a.pred[p * a.channels + c] - a.target[p * a.channels + c];
      sum += e * e;
    }
    const double d = double(*a.dout * a.coefficient[p / positions]) * share(a.each) * sum;
    write<float, 1>(a.out[0] + p, {{float(d)}}, a.mode[0]);
  });
}

// Grid: parts, samples.
__device__ inline void coefficient_sums(const Args& a) {
  const Count sample = blockIdx.y * a.each;
  const double sum = sum_own(a.each, whole(a), [&]<int Vec>(Count at) {
    const Errors<Vec> x = errors<Vec>(a, sample + at);
    double sum = 0.0;
    for (int k = 0; k < Vec; ++k) sum += double(x.weight) * (double(x.e.v[k]) * x.e.v[k]);
    return sum;
  });
  const double total = block_sum<SumTile::Threads>(shared_memory<Sums>(), sum);
  if (threadIdx.x == 0) a.partial[blockIdx.y * gridDim.x + blockIdx.x] = total;
}

// Grid: samples.
__device__ inline void backward_coefficient(const Args& a) {
  const double sum = total_of(shared_memory<Sums>(), a.partial + Count(blockIdx.x) * a.parts, a.parts);
  if (threadIdx.x == 0)
    write<float, 1>(a.out[0] + blockIdx.x, {{float(double(*a.dout) * share(a.each) * sum)}}, a.mode[0]);
}

}  // namespace masked_mse

EXPORT(masked_mse_forward, loss::SumTile, masked_mse::Args, masked_mse::forward)
EXPORT(masked_mse_value, loss::SumTile, masked_mse::Args, masked_mse::value)
EXPORT(masked_mse_backward, elementwise::Tile<float>, masked_mse::Args, masked_mse::backward)
EXPORT(masked_mse_weight, FlatTile<1>, masked_mse::Args, masked_mse::backward_weight)
EXPORT(masked_mse_coefficient_sums, loss::SumTile, masked_mse::Args, masked_mse::coefficient_sums)
EXPORT(masked_mse_coefficient, loss::SumTile, masked_mse::Args, masked_mse::backward_coefficient)
