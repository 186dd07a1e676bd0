// Runs one self-test kernel of kernels/emulator/ and compares its result: main CASE SCHEDULE SEED.
// Exit status 0 and "ok", or 1 and what was wrong. tests/emulator.rs builds it plain and with sanitizers.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "emulator/launch.h"
#include "emulator/number.h"
#include "emulator/tensor_map.h"

using emulator::Launch;
using emulator::Number;
using Kernel = int (*)(const Launch*, const void*);

struct TileRecord {
  int version, block_rows, block_cols, stages, threads, shared_bytes, args_bytes, blocks_per_sm;
  int cluster;
};

#define KERNELS(X)                                                                              \
  X(selftest_reverse) X(selftest_unsynced) X(selftest_diverge) X(selftest_overrun)              \
  X(selftest_shared_overrun) X(warp_functions) X(warp_copies) X(warp_copies_weak_wait)          \
  X(warp_divergent_shuffle) X(warp_lost_lanes) X(warp_misaligned) X(warp_wild) X(warp_chain)    \
  X(warp_atomics) X(warp_block_race) X(warp_mma_bf16) X(warp_mma_f16) X(warp_mma_tf32)                             \
  X(product_bf16_n64)                                                                           \
  X(product_f16_n80) X(product_bf16_n256) X(product_bf16_n64_mn128) X(product_bf16_n96_mn64)    \
  X(product_f16_n48_mn32) X(product_bf16_n64_pair) X(product_early_release)                     \
  X(product_weak_wait) X(product_no_proxy_fence) X(product_wrong_bytes) X(product_wrong_count)  \
  X(product_no_store_wait) X(product_no_full_wait) X(product_no_store_barrier)                  \
  X(product_shared_overrun) X(product_plain_no_fence) X(product_no_cluster_start)               \
  X(cluster_exchange) X(cluster_arrive_twice) X(cluster_wait_only) X(cluster_leave_arrived)     \
  X(cluster_leave_early) X(cluster_leave_before_arrivals) X(cluster_relaxed_store)              \
  X(cluster_relaxed_load) X(cluster_arrival_store) X(cluster_no_init_fence)                     \
  X(cluster_named_count) X(cluster_named_twice) X(cluster_named_left) X(cluster_elect_part)
#define DECLARE(NAME)                                              \
  extern "C" int emulated_##NAME(const Launch*, const void*);      \
  extern "C" const TileRecord NAME##_tile;
KERNELS(DECLARE)

struct Named {
  const char* name;
  Kernel kernel;
  const TileRecord* tile;
};
#define ROW(NAME) {#NAME, emulated_##NAME, &NAME##_tile},
const Named kernels[] = {KERNELS(ROW)};

emulator::Schedule schedule;
uint64_t seed;

[[noreturn]] void wrong(const std::string& what) {
  std::printf("wrong: %s\n", what.c_str());
  std::exit(1);
}

const Named& find(const std::string& name) {
  for (const Named& k : kernels)
    if (name == k.name) return k;
  wrong("no case " + name);
}

void run(const Named& k, unsigned gx, unsigned gy, const void* args) {
  char message[4096] = "";
  Launch l{{gx, gy, 1}, {unsigned(k.tile->threads), 1, 1}, size_t(k.tile->shared_bytes), schedule,
           seed, message, sizeof message, unsigned(k.tile->cluster), 0};
  if (k.kernel(&l, args)) wrong(message);
}

float random_value() { return float(std::rand() % 1000) / 500.0f - 1.0f; }

void expect(const char* what, size_t at, double got, double want, double tolerance) {
  if (std::fabs(got - want) <= tolerance) return;
  char text[200];
  std::snprintf(text, sizeof text, "%s[%zu] is %g, expected %g", what, at, got, want);
  wrong(text);
}

// ---- selftest.cu

struct PlainArgs {
  const float* in;
  float* out;
  int len, offset;
};

void plain(const Named& k) {
  std::vector<float> in(128), out(128);
  for (int i = 0; i < 128; ++i) in[i] = float(i);
  const bool past = std::strstr(k.name, "overrun") != nullptr;
  const bool global = std::string(k.name) == "selftest_overrun";
  PlainArgs a{in.data(), out.data(), 128, global ? 128 : past ? 1 : 0};
  run(k, 2, 1, &a);
  if (past) return;
  for (int i = 0; i < 128; ++i) expect("out", i, out[i], i < 64 ? 63 - i : 191 - i, 0);
}

// ---- selftest_warp.cu

struct WarpArgs {
  const float* in;
  float* out;
  unsigned* flags;
  int n, offset;
};

void warp_functions(const Named& k) {
  std::vector<float> in(64), out(64 * 12);
  for (auto& x : in) x = random_value();
  WarpArgs a{in.data(), out.data(), nullptr, 0, 0};
  run(k, 1, 1, &a);
  for (int t = 0; t < 64; ++t) {
    const int lane = t % 32, base = t - lane;
    auto x = [&](int from) { return double(in[size_t(base + from)]); };
    unsigned sum = 0;
    int most = std::numeric_limits<int>::min(), ones = 0;
    for (int i = 0; i < 32; ++i) {
      const unsigned u = unsigned(i) * 2654435761u;
      sum += u, most = std::max(most, int(u)), ones += x(i) > 0.5;
    }
    const double pairs = lane < 16 ? x(lane ^ 2 ^ 1) : x(lane ^ 1);
    const double want[12] = {
        x(5), x(lane / 8 * 8 + (lane + 3) % 8), x(lane % 16 < 2 ? lane : lane - 2),
        x(lane + 3 > 31 ? lane : lane + 3), x(lane ^ 6), double(ones), 3, float(sum >> 8),
        float(most >> 8), pairs,
        float(((unsigned long long)(9 * 2654435761u) << 20) >> 32), 1};
    for (int i = 0; i < 12; ++i) expect("out", size_t(t * 12 + i), out[t * 12 + i], want[i], 0);
  }
}

void copies(const Named& k) {
  const int slabs = 9;
  std::vector<float> in(slabs * 128), out(slabs * 128);
  for (auto& x : in) x = random_value();
  WarpArgs a{in.data(), out.data(), nullptr, slabs, 0};
  run(k, 1, 1, &a);
  for (int i = 0; i < slabs * 128; ++i)
    expect("out", size_t(i), out[size_t(i)], in[size_t(i / 128 * 128 + 127 - i % 128)], 0);
}

void unaligned(const Named& k) {
  alignas(16) static float in[160], out[160];
  WarpArgs a{in, out, nullptr, 1, 1};
  run(k, 1, 1, &a);
}

void chain(const Named& k, int set) {
  const unsigned blocks = 70;
  std::vector<float> out(blocks);
  std::vector<unsigned> flags(blocks);
  WarpArgs a{nullptr, out.data(), flags.data(), set, 0};
  run(k, blocks, 1, &a);
  expect("out", blocks - 1, out[blocks - 1], blocks - 1, 0);
}

void block_race(const Named& k) {
  float in = 1, out = 0;
  WarpArgs a{&in, &out, nullptr, 0, 0};
  run(k, 4, 1, &a);
  expect("out", 0, out, 1, 0);
}

void atomics(const Named& k) {
  const unsigned blocks = 300;  // enough threads for several workers
  float out[2] = {};
  unsigned flags[3] = {};
  WarpArgs a{nullptr, out, flags, 64 * 300, 0};
  run(k, blocks, 1, &a);
  expect("flags", 0, flags[0], 64 * blocks, 0);
  expect("flags", 1, flags[1], 64 * blocks - 1, 0);
  expect("flags", 2, flags[2], 0, 0);
  expect("out", 0, out[0], 64 * blocks, 0);
  expect("out", 1, out[1], 1, 0);
}

void mma(const Named& k) {
  std::vector<float> in(256 + 128), out(128);
  for (auto& x : in) x = random_value();
  const std::string name = k.name;
  const Number type = name == "warp_mma_bf16" ? Number::Bf16 : Number::F16;
  const int depth = name == "warp_mma_tf32" ? 8 : 16;
  if (depth == 16)
    for (auto& x : in) x = emulator::f32_of(type, emulator::of_f32(type, x));
  WarpArgs a{in.data(), out.data(), nullptr, 0, 0};
  run(k, 1, 1, &a);
  for (int i = 0; i < 128; ++i) {
    double sum = 0;
    for (int d = 0; d < depth; ++d) sum += double(in[i / 8 * 16 + d]) * in[256 + d * 8 + i % 8];
    expect("out", size_t(i), out[size_t(i)], sum, depth == 8 ? 4e-3 : 1e-5);  // tf32: 10 bits
  }
}

// ---- selftest_sm90.cu

struct alignas(64) Map {
  unsigned char bytes[128];
};
struct ProductArgs {
  Map left, right, out;
  float* sums;
  int n, depth;
  unsigned past;
};

Map map_of(void* p, unsigned rows, unsigned cols, unsigned box_rows, unsigned box_cols,
           unsigned swizzle) {
  Map m;
  const uint64_t dim[] = {cols, rows}, stride[] = {cols * 2ull};
  const uint32_t box[] = {box_cols, box_rows}, ones[] = {1, 1};
  const char* refused = emulator::encode_tensor_map(&m, 2, 2, uint64_t(p), dim, stride, box, ones, swizzle);
  if (refused) wrong(refused);
  return m;
}

uint16_t* numbers(size_t n, Number type) {
  auto* p = static_cast<uint16_t*>(std::aligned_alloc(256, (n * 2 + 255) / 256 * 256));
  for (size_t i = 0; i < n; ++i) p[i] = emulator::of_f32(type, random_value());
  return p;
}

void product(const Named& k) {
  const std::string name = k.name;
  const Number type = name.find("f16_") != std::string::npos && name.find("bf16") == std::string::npos
                          ? Number::F16 : Number::Bf16;
  const size_t mn = name.find("_mn");
  const unsigned span = mn == std::string::npos ? 0 : unsigned(std::atoi(name.c_str() + mn + 3));
  // Ragged: the last slab of K and the last columns lie outside.
  const unsigned cols = unsigned(k.tile->block_cols), m = 128, n = cols * 2 - 16, depth = 5 * 64 - 16;
  uint16_t *a = numbers(m * depth, type), *b = numbers(n * depth, type), *out = numbers(m * n, type);
  std::vector<float> sums(m * n, std::numeric_limits<float>::quiet_NaN());
  ProductArgs args;
  args.left = map_of(a, m, depth, 64, 64, 128);
  args.right = span ? map_of(b, depth, n, 64, span / 2, span)
                    : map_of(b, n, depth, cols / unsigned(k.tile->cluster), 64, 128);
  args.out = map_of(out, m, n, 64, cols, 0);
  args.sums = sums.data(), args.n = int(n), args.depth = 5, args.past = unsigned(k.tile->shared_bytes);
  run(k, m / 64, 2, &args);
  for (unsigned i = 0; i < m * n; ++i) {
    double sum = 0;
    for (unsigned d = 0; d < depth; ++d)
      sum += double(emulator::f32_of(type, a[i / n * depth + d])) *
             emulator::f32_of(type, span ? b[d * n + i % n] : b[i % n * depth + d]);
    expect("sums", i, sums[i], sum, 1e-4);
    expect("out", i, out[i], emulator::of_f32(type, sums[i]), 0);
  }
  std::free(a), std::free(b), std::free(out);
}

// ---- selftest_cluster.cu

struct ClusterArgs {
  float* out;
};

void cluster(const Named& k) {
  std::vector<float> out(128);
  ClusterArgs a{out.data()};
  run(k, 2, 1, &a);
  for (int i = 0; i < 128; ++i) {
    const int rank = i / 64, t = i % 64, handed = t < 32 ? t + 32 : 0;
    expect("out", size_t(i), out[size_t(i)], 1000 * (2 - rank) + 2 * t + handed, 0);
  }
}

int main(int count, char** words) {
  if (count != 4) wrong("usage: main CASE SCHEDULE SEED");
  const std::string name = words[1];
  schedule = emulator::Schedule(std::atoi(words[2]));
  seed = std::strtoull(words[3], nullptr, 10);
  const Named& k = find(name == "warp_chain_unset" ? "warp_chain" : name);
  if (name.rfind("selftest", 0) == 0) plain(k);
  else if (name.rfind("product", 0) == 0) product(k);
  else if (name.rfind("cluster", 0) == 0) cluster(k);
  else if (name.rfind("warp_copies", 0) == 0) copies(k);
  else if (name.rfind("warp_mma", 0) == 0) mma(k);
  else if (name == "warp_chain") chain(k, 1);
  else if (name == "warp_chain_unset") chain(k, 0);
  else if (name == "warp_atomics") atomics(k);
  else if (name == "warp_block_race") block_race(k);
  else if (name == "warp_functions") warp_functions(k);
  else unaligned(k);
  std::printf("ok\n");
  return 0;
}
