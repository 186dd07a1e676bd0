// What kernels/ptx/ calls instead of an instruction, when compiled for the host.
#pragma once
#include <cstddef>
#include <cstdint>

#include "emulator/kernel.h"
#include "emulator/number.h"

namespace emulator {

// ---- shared memory: a 32-bit address is the block's rank in its cluster << 24 | offset
uint32_t shared_address(const void* p);
unsigned char* shared_pointer(uint32_t address, size_t bytes, const char* what);
// As shared_pointer, aligned to `bytes` and of this block.
unsigned char* own_shared(uint32_t address, size_t bytes, const char* what);
void check_aligned(const void* p, size_t align, const char* what);

// ---- flags between blocks: an acquire load; a thread that sees the same value again lets others run
unsigned poll(const unsigned* p);

// ---- cp.async: `valid` of `bytes` are copied, the rest is zero
void cp_async(uint32_t shared, const void* global, unsigned bytes, unsigned valid);
void cp_async_commit();
void cp_async_wait(unsigned groups_left);

// ---- tensor cores, one warp
void ldmatrix(uint32_t* r, unsigned count, bool transposed, uint32_t row, int line);
void stmatrix(const uint32_t* r, unsigned count, bool transposed, uint32_t row, int line);
void mma_m16n8k16(Number n, float* d, const uint32_t* a, const uint32_t* b, int line);
void mma_m16n8k8_tf32(float* d, const uint32_t* a, const uint32_t* b, int line);


// ---- mbarriers in shared memory; a remote one by its mapped address
void mbarrier_init(uint32_t barrier, unsigned count, int line);
void mbarrier_fence_init();
void mbarrier_arrive(uint32_t barrier, int line);
// From any block of the cluster, without publishing what the thread wrote.
void mbarrier_arrive_cluster(uint32_t barrier, int line);
void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes, int line);
void mbarrier_expect(uint32_t barrier, uint32_t bytes);
bool mbarrier_test(uint32_t barrier, uint32_t parity);
void mbarrier_wait(uint32_t barrier, uint32_t parity, int line);

// ---- barriers with a number; clusters
void named_barrier(int id, int threads, bool wait, int line);
enum class Order { Relaxed, Release };
void cluster_arrive(Order order, int line);
void cluster_wait(int line);
uint32_t cluster_rank();
uint32_t cluster_blocks();
// Where ld.shared::cluster and st.shared::cluster find a mapped address.
unsigned char* cluster_load(uint32_t address, unsigned bytes, int line);
unsigned char* cluster_store(uint32_t address, unsigned bytes, int line);

// ---- bulk copies; coordinates innermost first, `ranks` the blocks that receive
void tensor_load(uint32_t to, const void* map, uint32_t barrier, const int* at, unsigned rank,
                 uint32_t ranks, int line);
void tensor_store(const void* map, uint32_t from, const int* at, unsigned rank, int line);
void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint32_t ranks);
void bulk_store(void* to, uint32_t from, uint32_t bytes);
void bulk_commit();
void bulk_wait(unsigned groups_left);
// What this thread wrote to shared memory is visible to bulk copies and wgmma afterwards.
void fence_proxy();

// ---- one warpgroup's products: d (64, n) (+)= A (64, 16) B (16, n)
void wgmma(Number type, unsigned n, float* d, const uint32_t* a_registers, uint64_t a, uint64_t b,
           bool accumulate, bool transpose_a, bool transpose_b, int line);
void wgmma_commit(int line);
void wgmma_wait(unsigned groups_left, int line);

}  // namespace emulator
