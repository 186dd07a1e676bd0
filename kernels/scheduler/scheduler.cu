// One step of a sampler: guidance, update of the latent, the next input of the model.   latent: (Len) f32
// o = away + g (toward - away); Euler, DDIM or DPM-Solver++(2M) with the coefficients of row `index`; then
// sample = latent * input factor of the next row, once or, with guidance, twice.   output, sample: (copies,
// Len) as T
// Work: 5 to 15 flop an element.  Bytes: 8*Len of the latent, 8*Len of the previous estimate (2M), T of
// output, sample.
// SDXL, one picture, Len=65536, bf16 with guidance: 1.6 MB -> 0.4 us at 4.3 TB/s, below a launch:
// launch-bound.
// Tile: 256 threads, 4 elements (16 bytes of f32) a thread; _scalar where Len % 4 != 0.
// Nothing that changes from step to step is an argument: the index is in device memory and `advance` moves
// it, so that one captured graph is a step, or a whole denoising loop.
// Determinism: bitwise, every rounding spelled out: in f32 equal to cpu.rs.   Measured: see NOTES.md.
#include "common/exact.cuh"
#include "common/vector.cuh"

namespace scheduler {

enum class Rule : int { Euler, Ddim, DpmPp };  // as in mod.rs

// Coefficients of one step; what a to d are depends on the rule: see `updated`.
struct Row {
  float a, b, c, d;
  float ratio;     // 2M: h / (2 h_previous); DDIM: the clean latent is kept within this
  float second;    // 2M: whether the previous estimate counts; DDIM: whether the clean latent is clipped; 0 or 1
  float input;     // factor from the latent to the model's input
  float timestep;  // what the model is told
};

struct State {
  unsigned index;  // of the step that comes
  unsigned steps;  // rows - 1
  float guidance;
  unsigned unused;
};

template <class T>
struct Args {
  State* state;
  const Row* rows;  // (steps + 1); of the last only `input` and `timestep` are read
  float* latent;    // (len)
  float* previous;  // (len): 2M's last estimate of the clean latent
  const T* output;  // (copies, len): of the model; with guidance away, then toward
  T* sample;        // (copies, len): next input of the model
  float* timestep;  // (timesteps)
  unsigned long long len;
  Rule rule;
  int velocity;     // the model predicts velocity, not noise
  int copies;       // 2 with guidance
  int timesteps;
};

__device__ inline float estimate(const Row& r, bool velocity, float x, float o) {
  const float noise = exact::mul(r.b, o);
  return velocity ? exact::sub(exact::mul(r.a, x), noise) : exact::div(exact::sub(x, noise), r.a);
}

// The latent after the step; `clean` receives 2M's estimate.
template <class T>
__device__ inline float updated(const Args<T>& a, const Row& r, float x, float o, float& clean) {
  switch (a.rule) {
    case Rule::Euler: {  // a = sigma, b = next sigma - sigma, c and d: velocity to clean
      if (a.velocity) {
        const float z = exact::add(exact::mul(o, r.c), exact::mul(x, r.d));
        o = exact::div(exact::sub(x, z), r.a);
      }
      return exact::add(x, exact::mul(o, r.b));
    }
    case Rule::Ddim: {  // a, b = sqrt(abar), sqrt(1 - abar) before the step; c, d after it
      float z = estimate(r, a.velocity, x, o);
      if (r.second != 0.0f) z = fmaxf(fminf(z, r.ratio), -r.ratio);
      const float eps = a.velocity ? exact::add(exact::mul(r.a, o), exact::mul(r.b, x)) : o;
      return exact::add(exact::mul(r.c, z), exact::mul(r.d, eps));
    }
    default: {  // a, b = alpha, sigma; c = sigma ratio, d = -alpha_next (e^-h - 1)
      const float z = estimate(r, a.velocity, x, o);
      const float change = r.second != 0.0f ? exact::mul(r.ratio, exact::sub(z, clean)) : 0.0f;
      clean = z;
      return exact::add(exact::mul(r.c, x), exact::mul(r.d, exact::add(z, change)));
    }
  }
}

template <int Vec, class T>
__device__ inline void write_sample(const Args<T>& a, float factor, const Lane<Vec>& x, size_t at) {
  Lane<Vec> y;
#pragma unroll
  for (int i = 0; i < Vec; ++i) y.v[i] = exact::mul(x.v[i], factor);
  for (int copy = 0; copy < a.copies; ++copy) store(a.sample + copy * a.len + at, y);
}

template <int Vec>
__device__ inline size_t own_first() {
  return (size_t(blockIdx.x) * FlatTile<Vec>::Threads + threadIdx.x) * Vec;
}

// The guided output of the model.
template <int Vec, class T>
__device__ inline Lane<Vec> guided(const Args<T>& a, float guidance, size_t at) {
  Lane<Vec> o = load_once<Vec>(a.output + at);
  if (a.copies == 1) return o;
  const Lane<Vec> toward = load_once<Vec>(a.output + a.len + at);
#pragma unroll
  for (int i = 0; i < Vec; ++i)
    o.v[i] = exact::add(o.v[i], exact::mul(guidance, exact::sub(toward.v[i], o.v[i])));
  return o;
}

template <int Vec, class T>
__device__ inline void step(const Args<T>& a) {
  const State s = *a.state;
  const size_t at = own_first<Vec>();
  if (s.index >= s.steps || at >= a.len) return;
  const Row row = a.rows[s.index];
  const Lane<Vec> o = guided<Vec>(a, s.guidance, at);
  Lane<Vec> x = load<Vec>(a.latent + at), clean = {};
  const bool second_order = a.rule == Rule::DpmPp;
  if (second_order && row.second != 0.0f) clean = load<Vec>(a.previous + at);
#pragma unroll
  for (int i = 0; i < Vec; ++i) x.v[i] = updated(a, row, x.v[i], o.v[i], clean.v[i]);
  store(a.latent + at, x);
  if (second_order) store(a.previous + at, clean);
  write_sample(a, a.rows[s.index + 1].input, x, at);
}

// The first input of the model.
template <int Vec, class T>
__device__ inline void input(const Args<T>& a) {
  const size_t at = own_first<Vec>();
  if (at >= a.len) return;
  write_sample(a, a.rows[a.state->index].input, load<Vec>(a.latent + at), at);
}

// index = `next`, and the timestep that belongs to it; one block.
__device__ inline void move_to(const Args<float>& a, unsigned next) {
  for (int i = int(threadIdx.x); i < a.timesteps; i += int(blockDim.x)) a.timestep[i] = a.rows[next].timestep;
  if (threadIdx.x == 0) a.state->index = next;
}

__device__ inline void begin(const Args<float>& a) { move_to(a, 0); }

__device__ inline void advance(const Args<float>& a) {
  const unsigned index = a.state->index;
  __syncthreads();  // read by all before it is moved
  if (index < a.state->steps) move_to(a, index + 1);
}

}  // namespace scheduler

EXPORT(scheduler_step_vec_f32, FlatTile<4>, scheduler::Args<float>, (scheduler::step<4, float>))
EXPORT(scheduler_step_vec_bf16, FlatTile<4>, scheduler::Args<bf16>, (scheduler::step<4, bf16>))
EXPORT(scheduler_step_vec_f16, FlatTile<4>, scheduler::Args<f16>, (scheduler::step<4, f16>))
EXPORT(scheduler_step_scalar_f32, FlatTile<1>, scheduler::Args<float>, (scheduler::step<1, float>))
EXPORT(scheduler_step_scalar_bf16, FlatTile<1>, scheduler::Args<bf16>, (scheduler::step<1, bf16>))
EXPORT(scheduler_step_scalar_f16, FlatTile<1>, scheduler::Args<f16>, (scheduler::step<1, f16>))
EXPORT(scheduler_input_vec_f32, FlatTile<4>, scheduler::Args<float>, (scheduler::input<4, float>))
EXPORT(scheduler_input_vec_bf16, FlatTile<4>, scheduler::Args<bf16>, (scheduler::input<4, bf16>))
EXPORT(scheduler_input_vec_f16, FlatTile<4>, scheduler::Args<f16>, (scheduler::input<4, f16>))
EXPORT(scheduler_input_scalar_f32, FlatTile<1>, scheduler::Args<float>, (scheduler::input<1, float>))
EXPORT(scheduler_input_scalar_bf16, FlatTile<1>, scheduler::Args<bf16>, (scheduler::input<1, bf16>))
EXPORT(scheduler_input_scalar_f16, FlatTile<1>, scheduler::Args<f16>, (scheduler::input<1, f16>))
EXPORT(scheduler_begin, FlatTile<1>, scheduler::Args<float>, scheduler::begin)
EXPORT(scheduler_advance, FlatTile<1>, scheduler::Args<float>, scheduler::advance)
