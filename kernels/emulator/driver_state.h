// State of the emulated driver: memory, streams, captured work. Part of driver.cpp.
#pragma once
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "emulator/launch.h"
#include "emulator/memory.h"

namespace {

using emulator::Launch;
using KernelEntry = int (*)(const Launch*, const void*);

enum Code : unsigned {  // the driver's own numbers
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidDevice = 101, kInvalidImage = 200,
  kInvalidHandle = 400, kIllegalState = 401, kNotFound = 500, kLaunchFailed = 719,
  kCaptureUnsupported = 900, kCaptureInvalidated = 901, kCaptureImplicit = 906,
  kCapturedEvent = 907, kCaptureWrongThread = 908, kInvalidClusterSize = 912
};

struct CodeName {
  unsigned code;
  const char* name;
};
constexpr CodeName kCodeNames[] = {
    {kSuccess, "CUDA_SUCCESS"},
    {kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
    {kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
    {kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
    {kInvalidImage, "CUDA_ERROR_INVALID_IMAGE"},
    {kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
    {kIllegalState, "CUDA_ERROR_ILLEGAL_STATE"},
    {kNotFound, "CUDA_ERROR_NOT_FOUND"},
    {kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {kCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {kCaptureImplicit, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
    {kCapturedEvent, "CUDA_ERROR_CAPTURED_EVENT"},
    {kCaptureWrongThread, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD"},
    {kInvalidClusterSize, "CUDA_ERROR_INVALID_CLUSTER_SIZE"},
};

constexpr size_t kTotalBytes = size_t(8) << 30;
constexpr int kMultiprocessors = 4;

// Work that a stream executes at once, or records while it captures; a code.
using Work = std::function<unsigned()>;
using Works = std::vector<Work>;

enum class CaptureMode : int { Global = 0, ThreadLocal = 1, Relaxed = 2 };

struct Stream {
  bool capturing = false, invalidated = false;
  CaptureMode mode = CaptureMode::Global;
  std::thread::id thread;  // that began the capture
  Works captured;
};

std::mutex guard;  // every call holds it
emulator::Memory memory;
std::set<Stream*> streams;
std::map<uint64_t, size_t> pinned;  // host memory from cuMemHostAlloc
emulator::Schedule schedule = emulator::Schedule::Early;
uint64_t schedule_seed = 1;
int driver_version = 13000;  // CUDA's, as 1000 major + 10 minor
int resident_clusters = 0;   // of a grid that run at a time, whatever the kernel; 0: all
thread_local std::string failure;  // text of the last failed launch
thread_local void* current_context = nullptr;

unsigned failed(const std::string& why) {
  failure = "CUDA_ERROR_LAUNCH_FAILED: " + why;
  return kLaunchFailed;
}

// A call that a capture forbids (it may synchronize or allocate): invalidates the captures it meets.
bool forbidden_by_capture() {
  bool found = false;
  for (Stream* s : streams) {
    const bool local = s->thread == std::this_thread::get_id();
    if (!s->capturing || s->mode == CaptureMode::Relaxed) continue;
    if (s->mode == CaptureMode::Global || local) s->invalidated = found = true;
  }
  return found;
}

// Does the work, or records it. The null stream would wait for every other one.
unsigned submit(void* stream, Work work) {
  if (!stream) return forbidden_by_capture() ? unsigned(kCaptureImplicit) : work();
  auto* s = static_cast<Stream*>(stream);
  if (!streams.count(s)) return kInvalidHandle;
  if (!s->capturing) return work();
  if (s->invalidated) return kCaptureInvalidated;
  s->captured.push_back(std::move(work));
  return kSuccess;
}

bool is_capturing(void* stream) { return stream && static_cast<Stream*>(stream)->capturing; }

bool is_pinned(const void* p, size_t n) {
  auto it = pinned.upper_bound(uint64_t(p));
  if (it == pinned.begin()) return false;
  --it;
  const uint64_t offset = uint64_t(p) - it->first;
  return offset <= it->second && n <= it->second - offset;
}

// A captured copy reads host memory when the graph runs: it must be pinned.
bool host_ok(void* stream, const void* p, size_t n) { return !is_capturing(stream) || is_pinned(p, n); }

// Copies to pinned memory, numbered from 1, that the host sees only after it has waited: until then 0xFF.
struct Landing {
  uint64_t number;
  void* to;
  std::vector<char> bytes;
};
std::deque<Landing> landings;
uint64_t last_landing = 0;

void land_later(void* to, const void* from, size_t n) {
  const auto* start = static_cast<const char*>(from);
  landings.push_back({++last_landing, to, {start, start + n}});
  std::memset(to, 0xFF, n);
}

void land_until(uint64_t number) {
  for (; !landings.empty() && landings.front().number <= number; landings.pop_front()) {
    const Landing& l = landings.front();
    std::memcpy(l.to, l.bytes.data(), l.bytes.size());
  }
}

}  // namespace

#define API extern "C" EMULATED_SYMBOL unsigned
