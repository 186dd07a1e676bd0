// AdamW over flat f32 buffers, everything that changes from step to step read from device memory.
// p *= 1 - lr wd; m += (1 - b1)(g - m); v = b2 v + (1 - b2) g^2;
// p -= lr/(1 - b1^t) m / (sqrt(v)/sqrt(1 - b2^t) + eps)
// Work: about 15 flop an element, a root and two quotients among them.  Bytes: 28 an element (p, m, v read
// and written, g read), 8 more with a moving average, 2 more with a 16-bit shadow of the weights.
// SDXL adapters, 46.4 M elements, shadow: 1.4 GB -> 0.32 ms at 4.3 TB/s: memory-bound.
// prepare: one block: norm of the gradient, clipping, factors of this step (f64), step += 1; with a scaled loss
// also whether the update is skipped, and the next scale. update: 256 threads, each block one piece of at most
// 4096 elements of one kind, 16 bytes an access.
// Determinism: bitwise, and the CPU's operations in the CPU's order.   Measured: see NOTES.md.
// Requires: buffers on 16 bytes.
#include "adamw/state.cuh"
#include "common/block_sum.cuh"
#include "common/exact.cuh"
#include "common/vector.cuh"

namespace adamw {

constexpr int kThreads = 256, kVec = 4, kPiece = 4096;

struct Settings {
  float learning_rate, beta1, beta2, eps, weight_decay;
};

struct PrepareArgs {
  StepState* state;
  const double* squares;  // (parts): partial sums of the squared mean gradient
  const double* factors;  // (factor_count): of the learning rate, by step; the last one stays
  float* start;           // what the gradient of the loss starts from: the scale; null without scaling
  int parts, factor_count, kinds;
  float limit;            // of the norm, 0 without clipping
  float decay;            // of the moving average
  int interval;           // good updates in a row until the scale is doubled; 0: it never changes
  float mean;             // 1 / passes that were added up in the gradient
  int unused;
  Settings settings[kKinds];
};

__device__ inline bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

// x^n by repeated squaring, in the order of the CPU's powi.
__device__ inline double power(double x, unsigned n) {
  double r = 1.0;
  for (;; x *= x) {
    if (n & 1u) r *= x;
    n /= 2;
    if (n == 0) return r;
  }
}

__device__ inline Kind factors_of(const Settings& s, unsigned t, double factor) {
  const double rate = double(float(double(s.learning_rate) * factor));
  Kind k;
  k.size = float(rate / (1.0 - power(double(s.beta1), t)));
  k.root = float(sqrt(1.0 - power(double(s.beta2), t)));
  k.shrink = float(1.0 - rate * double(s.weight_decay));
  k.fresh1 = exact::sub(1.0f, s.beta1);
  k.beta2 = s.beta2;
  k.fresh2 = exact::sub(1.0f, s.beta2);
  k.eps = s.eps;
  k.unused = 0.0f;
  return k;
}

// The scale after an update whose gradient was, or was not, finite.
__device__ inline Scale after(Scale s, bool finite, unsigned interval) {
  if (!finite) return {interval ? 0.5f * s.value : s.value, 0, s.skipped + 1, s.in_a_row + 1};
  s.in_a_row = 0;
  s.good += 1;
  if (interval && s.good >= interval) {
    if (is_finite(2.0f * s.value)) s.value *= 2.0f;
    s.good = 0;
  }
  return s;
}

__device__ inline void prepare(const PrepareArgs& a) {
  double sum = 0.0;
  for (int i = int(threadIdx.x); i < a.parts; i += kThreads) sum += a.squares[i];
  const float norm = float(sqrt(block_sum(shared_memory<BlockSum<kThreads>>(), sum)));
  StepState& s = *a.state;
  const unsigned step = s.step;
  const Scale scale = s.scale;
  if (s.stopped) return;  // the same for every thread; written behind the barrier below
  const bool finite = is_finite(norm);
  const double factor = a.factors[min(int(step), a.factor_count - 1)];
  if (finite && int(threadIdx.x) < a.kinds)
    s.kind[threadIdx.x] = factors_of(a.settings[threadIdx.x], step - scale.skipped + 1, factor);
  __syncthreads();  // step, scale and stopped are read
  if (threadIdx.x != 0) return;
  s.norm = norm;
  if (a.start) {
    s.scale = after(scale, finite, unsigned(a.interval));
    *a.start = s.scale.value;
  } else if (!finite) {
    s.stopped = 1;
    return;
  }
  s.unit = a.start ? exact::div(a.mean, scale.value) : a.mean;
  const float clip = exact::div(a.limit, exact::add(norm, 1e-6f));
  const float done = __uint2float_rn(step - scale.skipped);
  const float warm = exact::div(exact::add(1.0f, done), exact::add(10.0f, done));
  s.clip = a.limit > 0.0f && clip < 1.0f ? clip : 1.0f;
  s.factor = float(factor);
  s.fresh = exact::sub(1.0f, a.decay < warm ? a.decay : warm);
  s.step = step + 1;
}

struct Piece {
  unsigned long long begin;  // first element
  unsigned len, kind;
};

template <class T>
struct UpdateArgs {
  const StepState* state;
  const Piece* pieces;  // (gridDim.x)
  float* master;
  const float* grad;
  float* first;
  float* second;
  float* average;       // null without
  T* shadow;            // the weights as T; null without
};

struct Factors {
  Kind kind;
  float unit, clip, fresh;
};

// One element in the CPU's operations and order.
__device__ inline void update_one(const Factors& f, float g, float& p, float& m, float& v) {
  g = exact::mul(exact::mul(g, f.unit), f.clip);
  p = exact::mul(p, f.kind.shrink);
  m = exact::add(m, exact::mul(exact::sub(g, m), f.kind.fresh1));
  v = exact::add(exact::mul(f.kind.beta2, v), exact::mul(exact::mul(f.kind.fresh2, g), g));
  const float root = exact::add(exact::div(exact::sqrt(v), f.kind.root), f.kind.eps);
  p = exact::sub(p, exact::mul(f.kind.size, exact::div(m, root)));
}

template <int Vec, class T>
__device__ inline void update_at(const UpdateArgs<T>& a, const Factors& f, size_t i) {
  const Lane<Vec> g = load_once<Vec>(a.grad + i);
  Lane<Vec> p = load<Vec>(a.master + i), m = load<Vec>(a.first + i), v = load<Vec>(a.second + i);
#pragma unroll
  for (int k = 0; k < Vec; ++k) update_one(f, g.v[k], p.v[k], m.v[k], v.v[k]);
  store(a.master + i, p);
  store(a.first + i, m);
  store(a.second + i, v);
  if (a.shadow) store(a.shadow + i, p);
  if (!a.average) return;
  Lane<Vec> mean = load<Vec>(a.average + i);
#pragma unroll
  for (int k = 0; k < Vec; ++k)
    mean.v[k] = exact::add(mean.v[k], exact::mul(exact::sub(p.v[k], mean.v[k]), f.fresh));
  store(a.average + i, mean);
}

template <class T>
__device__ inline void update(const UpdateArgs<T>& a) {
  const StepState& s = *a.state;
  if (s.stopped || s.scale.in_a_row) return;
  const Piece piece = a.pieces[blockIdx.x];
  const Factors f = {s.kind[piece.kind], s.unit, s.clip, s.fresh};
  const size_t begin = piece.begin, end = begin + piece.len;
  for (size_t i = begin / kVec * kVec + threadIdx.x * kVec; i < end; i += kThreads * kVec) {
    if (i >= begin && i + kVec <= end) {
      update_at<kVec>(a, f, i);
    } else {
      for (size_t k = i < begin ? begin : i; k < i + kVec && k < end; ++k) update_at<1>(a, f, k);
    }
  }
}

struct PrepareTile {
  static constexpr int BlockRows = 1, BlockCols = 1, Stages = 1;
  static constexpr int Threads = kThreads, SharedBytes = sizeof(BlockSum<kThreads>), BlocksPerSm = 1;
};
struct UpdateTile {
  static constexpr int BlockRows = 1, BlockCols = kPiece, Stages = 1;
  static constexpr int Threads = kThreads, SharedBytes = 0, BlocksPerSm = 4;
};

}  // namespace adamw

EXPORT(adamw_prepare, adamw::PrepareTile, adamw::PrepareArgs, adamw::prepare)
EXPORT(adamw_update, adamw::UpdateTile, adamw::UpdateArgs<float>, adamw::update<float>)
EXPORT(adamw_update_bf16, adamw::UpdateTile, adamw::UpdateArgs<bf16>, adamw::update<bf16>)
EXPORT(adamw_update_f16, adamw::UpdateTile, adamw::UpdateArgs<f16>, adamw::update<f16>)
