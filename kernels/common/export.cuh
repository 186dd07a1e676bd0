// EXPORT: publishes one kernel together with the tile the host reads back from the compiled object.
#pragma once
#include "ptx/grid.cuh"

// Read by src/device/cubin.rs, in this order; tile numbers exist nowhere else.
struct TileRecord {
  int version;        // of this layout
  int block_rows;     // what one block covers
  int block_cols;
  int stages;         // of a copy pipeline, 1 without one
  int threads;        // of a block
  int shared_bytes;   // dynamic shared memory
  int args_bytes;     // sizeof the argument struct; the host compares it with its own
  int blocks_per_sm;  // promised to the register allocator
  int cluster;        // blocks of a cluster along x, 1 without one
};

// A tile says `static constexpr int Cluster = 2;` only when its blocks work in clusters.
template <class T>
constexpr int cluster_of() {
  if constexpr (requires { T::Cluster; })
    return T::Cluster;
  else
    return 1;
}

// The tile of a kernel without reuse: every thread owns `Vec` consecutive elements.
template <int Vec_>
struct FlatTile {
  static constexpr int Vec = Vec_;
  static constexpr int Threads = 256;  // 8 warps: enough to hide a load, 8 blocks fill an SM
  static constexpr int BlockRows = 1, BlockCols = Vec * Threads, Stages = 1;
  static constexpr int SharedBytes = 0, BlocksPerSm = 4;
  static_assert(Vec == 1 || Vec == 2 || Vec == 4 || Vec == 8, "whole accesses a thread");
};

#define TILE_RECORD(T, ARGS)                                                             \
  {3, T::BlockRows, T::BlockCols, T::Stages, T::Threads, T::SharedBytes, int(sizeof(ARGS)), \
   T::BlocksPerSm, cluster_of<T>()}

// A kernel may be started while the one before it runs (`--programmatic`): it waits for its end before anything else, then
// lets the next one start, so at most one waits. Since version 3 of the record every kernel does.
#ifdef __CUDACC__
#define EXPORT(NAME, T, ARGS, BODY)                                               \
  extern "C" __constant__ TileRecord NAME##_tile = TILE_RECORD(T, ARGS);          \
  extern "C" __global__ __launch_bounds__(T::Threads, T::BlocksPerSm) void NAME( \
      const __grid_constant__ ARGS args) {                                        \
    ptx::grid_wait();                                                             \
    ptx::grid_launch_dependents();                                                \
    BODY(args);                                                                   \
  }
#else
#define EXPORT(NAME, T, ARGS, BODY)                                                       \
  extern "C" {                                                                            \
  EMULATED_SYMBOL extern const TileRecord NAME##_tile;                                    \
  const TileRecord NAME##_tile = TILE_RECORD(T, ARGS);                                    \
  EMULATED_SYMBOL int emulated_##NAME(const emulator::Launch* launch, const void* args) { \
    const auto body = [](const void* a) {                                                 \
      ptx::grid_wait();                                                                   \
      ptx::grid_launch_dependents();                                                      \
      BODY(*static_cast<const ARGS*>(a));                                                 \
    };                                                                                    \
    return emulator::run_grid(*launch, body, args);                                       \
  }                                                                                       \
  }
#endif
