// The CUDA driver functions selvedge calls, on the host: --device emulated opens this library in
// place of libcuda.so.1. Modules are kernels compiled for the host (ELF shared objects).
#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <mutex>
#include <string>

#include "emulator/launch.h"
#include "emulator/memory.h"

namespace {

using emulator::Launch;
using KernelEntry = int (*)(const Launch*, const void*);

enum Code : unsigned {  // the driver's own numbers
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidDevice = 101, kInvalidImage = 200,
  kNotFound = 500, kLaunchFailed = 719
};
constexpr size_t kMaxShared = 227 << 10;      // Hopper's opt-in limit
constexpr size_t kDefaultShared = 48 << 10;   // without cuFuncSetAttribute
constexpr size_t kTotalBytes = size_t(8) << 30;

struct Module { void* library; int file; };
struct Function { KernelEntry entry; std::string name; size_t max_shared = kDefaultShared; };

std::mutex guard;
emulator::Memory memory;
emulator::Schedule schedule = emulator::Schedule::Early;
uint64_t schedule_seed = 1;
thread_local std::string failure;
thread_local void* current_context = nullptr;

unsigned failed(const std::string& why) {
  failure = "CUDA_ERROR_LAUNCH_FAILED: " + why;
  return kLaunchFailed;
}

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

unsigned launch(Function* f, Launch& l, void** args) {
  char message[2048] = "";
  l.schedule = schedule, l.seed = schedule_seed;
  l.message = message, l.message_bytes = sizeof message;
  if (f->entry(&l, args[0])) return failed(f->name + ": " + message);
  if (const size_t n = memory.damaged())
    return failed(f->name + ": wrote outside an allocation of " + std::to_string(n) + " bytes");
  return kSuccess;
}

}  // namespace

#define API extern "C" EMULATED_SYMBOL unsigned

API emulatorSchedule(int mode, uint64_t seed) {
  schedule = emulator::Schedule(mode);
  schedule_seed = seed;
  return kSuccess;
}

// ---- device and context
API cuInit(unsigned) { return kSuccess; }
API cuDriverGetVersion(int* v) { return *v = 13000, kSuccess; }
API cuDeviceGetCount(int* n) { return *n = 1, kSuccess; }
API cuDeviceGet(int* d, int i) { return *d = 0, i ? kInvalidDevice : kSuccess; }
API cuDeviceGetName(char* s, int n, int) {
  std::snprintf(s, size_t(n), "CPU emulator");
  return kSuccess;
}
API cuDeviceTotalMem_v2(size_t* n, int) { return *n = kTotalBytes, kSuccess; }
API cuDeviceGetAttribute(int* v, int attribute, int) {
  switch (attribute) {
    case 75: *v = 9; break;                // compute capability, major
    case 76: *v = 0; break;                // minor
    case 16: *v = 1; break;                // multiprocessors
    case 97: *v = int(kMaxShared); break;  // shared memory a block, opt-in
    default: *v = 0;
  }
  return kSuccess;
}
API cuDevicePrimaryCtxRetain(void** c, int) { return *c = &memory, kSuccess; }
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxSetCurrent(void* c) { return current_context = c, kSuccess; }
API cuGetErrorName(unsigned code, const char** s) {
  switch (code) {
    case kSuccess: *s = "CUDA_SUCCESS"; break;
    case kInvalidValue: *s = "CUDA_ERROR_INVALID_VALUE"; break;
    case kOutOfMemory: *s = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kInvalidDevice: *s = "CUDA_ERROR_INVALID_DEVICE"; break;
    case kInvalidImage: *s = "CUDA_ERROR_INVALID_IMAGE"; break;
    case kNotFound: *s = "CUDA_ERROR_NOT_FOUND"; break;
    case kLaunchFailed: *s = failure.c_str(); break;
    default: *s = "unknown"; return kInvalidValue;
  }
  return kSuccess;
}

// ---- streams: everything is done when a call returns
API cuStreamCreate(void** s, unsigned) { return *s = new char, kSuccess; }
API cuStreamDestroy_v2(void* s) { return delete static_cast<char*>(s), kSuccess; }
API cuStreamSynchronize(void*) { return kSuccess; }

// ---- memory
API cuMemAlloc_v2(uint64_t* p, size_t n) {
  std::lock_guard lock(guard);
  if (n == 0) return kInvalidValue;
  *p = n > kTotalBytes ? 0 : memory.allocate(n);
  return *p ? kSuccess : kOutOfMemory;
}
API cuMemFree_v2(uint64_t p) {
  std::lock_guard lock(guard);
  return memory.release(p) ? kSuccess : kInvalidValue;
}
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void*) {
  std::lock_guard lock(guard);
  if (!memory.holds(to, n)) return kInvalidValue;
  std::memcpy(reinterpret_cast<void*>(to), from, n);
  return kSuccess;
}
API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void*) {
  std::lock_guard lock(guard);
  if (!memory.holds(from, n)) return kInvalidValue;
  std::memcpy(to, reinterpret_cast<const void*>(from), n);
  return kSuccess;
}
API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void*) {
  std::lock_guard lock(guard);
  if (!memory.holds(from, n) || !memory.holds(to, n)) return kInvalidValue;
  std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), n);
  return kSuccess;
}
API cuMemsetD8Async(uint64_t to, unsigned char v, size_t n, void*) {
  std::lock_guard lock(guard);
  if (!memory.holds(to, n)) return kInvalidValue;
  std::memset(reinterpret_cast<void*>(to), v, n);
  return kSuccess;
}

// ---- modules and launches
API cuModuleLoadData(void** m, const void* image) {
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
API cuModuleUnload(void* m) {
  auto* module = static_cast<Module*>(m);
  dlclose(module->library);
  close(module->file);
  delete module;
  return kSuccess;
}
API cuModuleGetFunction(void** f, void* m, const char* name) {
  void* entry = dlsym(static_cast<Module*>(m)->library, (std::string("emulated_") + name).c_str());
  if (!entry) return kNotFound;
  *f = new Function{reinterpret_cast<KernelEntry>(entry), name};
  return kSuccess;
}
API cuFuncSetAttribute(void* f, int attribute, int v) {
  if (attribute != 8) return kInvalidValue;  // only the largest dynamic shared memory can be set
  if (v < 0 || size_t(v) > kMaxShared) return kInvalidValue;
  static_cast<Function*>(f)->max_shared = size_t(v);
  return kSuccess;
}
API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared_bytes, void*, void** args, void**) {
  std::lock_guard lock(guard);
  auto* f = static_cast<Function*>(function);
  const bool grid_ok = gx && gy && gz && gx <= 0x7fffffffu && gy <= 65535 && gz <= 65535;
  const bool block_ok = bx && by && bz && size_t(bx) * by * bz <= 1024;
  if (!grid_ok || !block_ok || shared_bytes > f->max_shared) return kInvalidValue;
  Launch l{{gx, gy, gz}, {bx, by, bz}, shared_bytes, {}, 0, nullptr, 0};
  return launch(f, l, args);
}
