// Modules (kernels compiled for the host, ELF shared objects), functions, launches. Part of driver.cpp.
#pragma once
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "emulator/driver_state.h"
#include "emulator/tensor_map.h"

namespace {

constexpr size_t kMaxShared = 227 << 10;      // Hopper's opt-in limit of a block
constexpr size_t kSharedOfMultiprocessor = 228 << 10, kReservedShared = 1 << 10;
constexpr size_t kDefaultShared = 48 << 10;   // without cuFuncSetAttribute
constexpr unsigned kMaxCluster = 8;           // without the attribute for larger ones
constexpr int kRegisters = 64 << 10;          // of a multiprocessor

// As kernels/common/export.cuh lays it out.
struct TileRecord {
  int version, block_rows, block_cols, stages, threads, shared_bytes, args_bytes, blocks_per_sm;
  int cluster;
};
constexpr int kTileVersion = 3;

struct Module {
  void* library;
  int file;
};
struct Function {
  KernelEntry entry;
  std::string name;
  TileRecord tile;
  size_t max_shared = kDefaultShared;
  // What a kernel that keeps its promise of blocks may use.
  int registers() const {
    const int per_thread = kRegisters / std::max(1, tile.threads * tile.blocks_per_sm);
    return std::min(255, per_thread / 8 * 8);
  }
  int blocks(int threads, size_t shared) const {
    if (threads <= 0) return 0;
    const int by_shared = int(kSharedOfMultiprocessor / (shared + kReservedShared));
    const int by_registers = kRegisters / std::max(1, registers() * threads);
    return std::min({32, 2048 / threads, by_shared, by_registers});
  }
};

size_t image_bytes(const void* image) {
  const auto* h = static_cast<const Elf64_Ehdr*>(image);
  if (std::memcmp(h->e_ident, ELFMAG, SELFMAG) != 0 || h->e_machine != EM_X86_64) return 0;
  return h->e_shoff + size_t(h->e_shnum) * h->e_shentsize;  // the section table ends the file
}

bool write_all(int file, const char* p, size_t n) {
  while (n) {
    const ssize_t k = write(file, p, n);
    if (k <= 0) return false;
    p += k, n -= size_t(k);
  }
  return true;
}

unsigned run(const Function& f, Launch l, const void* args) {
  char message[4096] = "";
  l.schedule = schedule, l.seed = schedule_seed;
  l.resident = unsigned(resident_clusters);
  l.message = message, l.message_bytes = sizeof message;
  char waited = 0;
  l.waited = &waited;
  if (f.entry(&l, args)) return failed(f.name + ": " + message);
  if (l.programmatic && !waited)
    return failed(f.name + ": started early, and never waited for the end of the kernel before it");
  if (const size_t n = memory.damaged())
    return failed(f.name + ": wrote outside an allocation of " + std::to_string(n) + " bytes");
  return kSuccess;
}

// Argument bytes, aligned for a tensor map.
std::shared_ptr<void> copy_of(const void* args, size_t n) {
  std::shared_ptr<void> copy(std::aligned_alloc(64, (n + 63) / 64 * 64), std::free);
  if (copy) std::memcpy(copy.get(), args, n);
  return copy;
}

unsigned launch(Function* f, const Launch& l, void* stream, void** args) {
  const bool grid_ok = l.grid[0] && l.grid[1] && l.grid[2] && l.grid[0] <= 0x7fffffffu &&
                       l.grid[1] <= 65535 && l.grid[2] <= 65535;
  const size_t threads = size_t(l.block[0]) * l.block[1] * l.block[2];
  if (!grid_ok || !threads || threads > size_t(f->tile.threads)) return kInvalidValue;
  if (l.shared_bytes > f->max_shared) return kInvalidValue;
  if (l.cluster == 0 || l.cluster > kMaxCluster) return kInvalidClusterSize;
  if (l.grid[0] % l.cluster) return kInvalidValue;
  if (int(l.cluster) != f->tile.cluster)
    return failed(f->name + ": made for clusters of " + std::to_string(f->tile.cluster) +
                  " blocks, launched with " + std::to_string(l.cluster));
  if (!is_capturing(stream)) return submit(stream, [=] { return run(*f, l, args[0]); });
  auto copy = copy_of(args[0], size_t(f->tile.args_bytes));
  if (!copy) return kOutOfMemory;
  return submit(stream, [=] { return run(*f, l, copy.get()); });
}

struct LaunchAttribute {  // CUlaunchAttribute
  unsigned id, unused;
  union {
    unsigned cluster[3];
    char bytes[64];
  };
};
struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned attribute_count;
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56, "as in cuda.h");
enum LaunchAttributeId : unsigned {
  kIgnore = 0, kCooperative = 2, kClusterDimension = 4, kSchedulingPolicy = 5,
  kProgrammaticSerialization = 6, kPriority = 8
};

// Bytes of an element of CUtensorMapDataType; 0 for the packed ones.
unsigned element_bytes(int type) {
  constexpr unsigned char bytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  return type >= 0 && type < int(sizeof bytes) ? bytes[type] : 0;
}

}  // namespace

API cuModuleLoadData(void** m, const void* image) {
  std::lock_guard lock(guard);
  if (forbidden_by_capture()) return kCaptureUnsupported;
  const size_t n = image_bytes(image);
  const int file = n ? memfd_create("kernel", MFD_CLOEXEC) : -1;
  if (file < 0) return kInvalidImage;
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  void* library = nullptr;
  // The file stays open while the library is loaded: its path is the library's identity.
  if (write_all(file, static_cast<const char*>(image), n))
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return close(file), kInvalidImage;
  *m = new Module{library, file};
  return kSuccess;
}
// Options are about compiling PTX, of which there is none here.
API cuModuleLoadDataEx(void** m, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(m, image);
}
API cuModuleUnload(void* m) {
  std::lock_guard lock(guard);
  auto* module = static_cast<Module*>(m);
  dlclose(module->library);
  close(module->file);
  delete module;
  return kSuccess;
}
API cuModuleGetFunction(void** f, void* m, const char* name) {
  void* library = static_cast<Module*>(m)->library;
  void* entry = dlsym(library, (std::string("emulated_") + name).c_str());
  const void* tile = dlsym(library, (std::string(name) + "_tile").c_str());
  if (!entry || !tile) return kNotFound;
  TileRecord record;
  std::memcpy(&record, tile, sizeof record);
  if (record.version != kTileVersion) return kInvalidImage;
  *f = new Function{reinterpret_cast<KernelEntry>(entry), name, record};
  return kSuccess;
}

API cuFuncSetAttribute(void* f, int attribute, int v) {
  if (attribute != 8) return kInvalidValue;  // only the largest dynamic shared memory can be set
  if (v < 0 || size_t(v) > kMaxShared) return kInvalidValue;
  static_cast<Function*>(f)->max_shared = size_t(v);
  return kSuccess;
}
API cuFuncGetAttribute(int* v, int attribute, void* function) {
  const auto& f = *static_cast<Function*>(function);
  switch (attribute) {
    case 0: *v = f.tile.threads; break;
    case 4: *v = f.registers(); break;
    case 5: case 6: *v = 90; break;  // PTX and binary version
    case 8: *v = int(f.max_shared); break;
    case 1: case 2: case 3: case 7: case 9: *v = 0; break;  // static shared, constant, local memory
    default: return kInvalidValue;
  }
  return kSuccess;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void* f, int threads, size_t shared) {
  return *n = static_cast<Function*>(f)->blocks(threads, shared), kSuccess;
}
API cuOccupancyMaxActiveClusters(int* n, void* function, const LaunchConfig* c) {
  const auto& f = *static_cast<Function*>(function);
  const int threads = int(c->block[0] * c->block[1] * c->block[2]);
  const int cluster = std::max(1, f.tile.cluster);
  *n = f.blocks(threads, c->shared_bytes) * (kMultiprocessors / cluster);
  if (resident_clusters) *n = std::min(*n, resident_clusters);
  return kSuccess;
}

API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared_bytes, void* stream, void** args, void**) {
  std::lock_guard lock(guard);
  Launch l{{gx, gy, gz}, {bx, by, bz}, shared_bytes, {}, 0, nullptr, 0};
  return launch(static_cast<Function*>(function), l, stream, args);
}
API cuLaunchKernelEx(const LaunchConfig* c, void* function, void** args, void**) {
  std::lock_guard lock(guard);
  Launch l{{c->grid[0], c->grid[1], c->grid[2]}, {c->block[0], c->block[1], c->block[2]},
           c->shared_bytes, {}, 0, nullptr, 0};
  for (unsigned i = 0; i < c->attribute_count; ++i) {
    const LaunchAttribute& a = c->attributes[i];
    switch (a.id) {
      case kIgnore: case kCooperative: case kSchedulingPolicy: case kPriority: break;
      case kProgrammaticSerialization: l.programmatic = a.cluster[0] != 0; break;
      case kClusterDimension:
        if (a.cluster[1] != 1 || a.cluster[2] != 1) return kInvalidClusterSize;  // along x only, here
        l.cluster = a.cluster[0];
        break;
      default: return kInvalidValue;
    }
  }
  return launch(static_cast<Function*>(function), l, c->stream, args);
}

API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* address, const uint64_t* dim,
                           const uint64_t* stride, const uint32_t* box,
                           const uint32_t* element_stride, int interleave, int swizzle, int l2,
                           int out_of_bounds) {
  constexpr unsigned spans[] = {0, 32, 64, 128};
  const unsigned bytes = element_bytes(type);
  if (!bytes || interleave != 0 || swizzle < 0 || swizzle > 3 || l2 < 0 || l2 > 3) return kInvalidValue;
  if (out_of_bounds != 0) return kInvalidValue;  // NaN outside: not modelled
  return emulator::encode_tensor_map(map, rank, bytes, uint64_t(address), dim, stride, box,
                                     element_stride, spans[swizzle])
             ? kInvalidValue
             : kSuccess;
}
