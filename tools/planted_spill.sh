#!/usr/bin/env bash
# Makes tests/fixtures/planted_spill.cubin: one clean kernel and one that spills registers. Needs tools/nvcc.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
nvcc=${NVCC:-.cuda/nvidia/cu13/bin/nvcc}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/planted.cu" <<'SOURCE'
#include "common/export.cuh"
struct Args { const float* in; float* out; int n; int rounds; };
struct Tile {
  static constexpr int Threads = 1024, BlockRows = 1, BlockCols = 1024, Stages = 1, SharedBytes = 0, BlocksPerSm = 1;
};
__device__ void copy(const Args& a) { if (threadIdx.x < a.n) a.out[threadIdx.x] = a.in[threadIdx.x]; }
__device__ void many(const Args& a) {  // 128 live values, 64 registers a thread
  float v[128];
  for (int i = 0; i < 128; ++i) v[i] = a.in[threadIdx.x + i * a.n];
  for (int r = 0; r < a.rounds; ++r)
    for (int i = 0; i < 128; ++i) v[i] = v[i] * v[(i + 7) % 128] + 1;
  float sum = 0;
  for (int i = 0; i < 128; ++i) sum += v[i] * i;
  a.out[threadIdx.x] = sum;
}
struct Pair : Tile { static constexpr int Cluster = 2; };
EXPORT(spill, Pair, Args, many)
EXPORT(fine, Tile, Args, copy)
SOURCE
"$nvcc" -O3 -std=c++20 -I kernels -gencode=arch=compute_90a,code=sm_90a --cubin -o tests/fixtures/planted_spill.cubin "$folder/planted.cu"
