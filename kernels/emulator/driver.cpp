// The CUDA driver functions selvedge calls, on the host: --device emulated opens this library in
// place of libcuda.so.1. One translation unit.
#include "emulator/driver_graph.h"
#include "emulator/driver_launch.h"
#include "emulator/driver_memory.h"

API emulatorSchedule(int mode, uint64_t seed) {
  schedule = emulator::Schedule(mode);
  schedule_seed = seed;
  return kSuccess;
}

// What another machine would have: an older driver, room for few clusters.
API emulatorDevice(int version, int clusters) {
  driver_version = version;
  resident_clusters = clusters;
  return kSuccess;
}

API emulatorMemory(int poisoned) {
  std::lock_guard lock(guard);
  memory.poison(poisoned);
  return kSuccess;
}

// ---- device and context
API cuInit(unsigned) { return kSuccess; }
API cuDriverGetVersion(int* v) { return *v = driver_version, kSuccess; }
API cuDeviceGetCount(int* n) { return *n = 1, kSuccess; }
API cuDeviceGet(int* d, int i) { return *d = 0, i ? kInvalidDevice : kSuccess; }
API cuDeviceGetName(char* s, int n, int) {
  std::snprintf(s, size_t(n), "CPU emulator");
  return kSuccess;
}
API cuDeviceTotalMem_v2(size_t* n, int) { return *n = kTotalBytes, kSuccess; }

struct DeviceAttribute {
  int attribute, value;
};
// Hopper's numbers, with few multiprocessors so that small grids fill it.
constexpr DeviceAttribute kDeviceAttributes[] = {
    {1, 1024},                           // threads of a block
    {2, 1024}, {3, 1024}, {4, 64},       // block dimensions
    {5, 0x7fffffff}, {6, 65535}, {7, 65535},  // grid dimensions
    {8, int(kDefaultShared)},            // shared memory of a block
    {10, 32},                            // lanes of a warp
    {12, kRegisters},                    // registers of a block
    {13, 1980000},                       // clock, kHz
    {16, kMultiprocessors},
    {18, 1},                             // integrated
    {36, 3201000},                       // memory clock, kHz
    {37, 6144},                          // memory bus, bits
    {38, 50 << 20},                      // L2 cache
    {39, 2048},                          // threads of a multiprocessor
    {41, 1},                             // unified addresses
    {75, 9}, {76, 0},                    // compute capability
    {81, int(kSharedOfMultiprocessor)},
    {82, kRegisters},
    {95, 1},                             // cooperative launch
    {97, int(kMaxShared)},               // shared memory of a block, opt-in
    {106, 32},                           // blocks of a multiprocessor
    {111, int(kReservedShared)},
    {120, 1},                            // clusters
    {127, 1},                            // tensor maps
};
API cuDeviceGetAttribute(int* v, int attribute, int) {
  *v = 0;
  for (const auto& a : kDeviceAttributes)
    if (a.attribute == attribute) *v = a.value;
  return kSuccess;
}

API cuDevicePrimaryCtxRetain(void** c, int) { return *c = &memory, kSuccess; }
API cuDevicePrimaryCtxRelease_v2(int) { return kSuccess; }
API cuCtxSetCurrent(void* c) { return current_context = c, kSuccess; }
API cuCtxGetCurrent(void** c) { return *c = current_context, kSuccess; }

API cuGetErrorName(unsigned code, const char** s) {
  *s = "unknown";
  if (code == kLaunchFailed) return *s = failure.c_str(), kSuccess;
  for (const auto& c : kCodeNames)
    if (c.code == code) return *s = c.name, kSuccess;
  return kInvalidValue;
}
API cuGetErrorString(unsigned code, const char** s) { return cuGetErrorName(code, s); }
