// Streams, their capture into graphs, and events. Part of driver.cpp.
// Work is done when the call that submits it returns, so streams have no queue; only what is copied to pinned memory is
// not seen before a wait.
#pragma once
#include "emulator/driver_state.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr unsigned kDisableTiming = 2;

struct Graph {
  Works nodes;
};
struct Event {
  bool timed, recorded = false, captured = false;
  Clock::time_point at;
  uint64_t landed = 0;  // copies to pinned memory before it
};

}  // namespace

API cuStreamCreate(void** s, unsigned) {
  std::lock_guard lock(guard);
  auto* stream = new Stream;
  streams.insert(stream);
  return *s = stream, kSuccess;
}
API cuStreamCreateWithPriority(void** s, unsigned flags, int) { return cuStreamCreate(s, flags); }
API cuStreamDestroy_v2(void* s) {
  std::lock_guard lock(guard);
  if (!streams.erase(static_cast<Stream*>(s))) return kInvalidHandle;
  return delete static_cast<Stream*>(s), kSuccess;
}
API cuStreamSynchronize(void* s) {
  std::lock_guard lock(guard);
  if (!is_capturing(s)) return land_until(last_landing), kSuccess;
  static_cast<Stream*>(s)->invalidated = true;
  return kCaptureUnsupported;
}
API cuStreamQuery(void* s) { return cuStreamSynchronize(s); }
API cuCtxSynchronize() {
  std::lock_guard lock(guard);
  return forbidden_by_capture() ? kCaptureUnsupported : kSuccess;
}

API cuStreamBeginCapture_v2(void* stream, int mode) {
  std::lock_guard lock(guard);
  auto* s = static_cast<Stream*>(stream);
  if (!s) return kCaptureUnsupported;  // the null stream cannot be captured
  if (!streams.count(s)) return kInvalidHandle;
  if (mode < 0 || mode > 2) return kInvalidValue;
  if (s->capturing) return kIllegalState;
  s->capturing = true, s->invalidated = false, s->mode = CaptureMode(mode);
  s->thread = std::this_thread::get_id();
  s->captured.clear();
  return kSuccess;
}
API cuStreamIsCapturing(void* s, int* status) {
  std::lock_guard lock(guard);
  *status = !is_capturing(s) ? 0 : static_cast<Stream*>(s)->invalidated ? 2 : 1;
  return kSuccess;
}
API cuStreamEndCapture(void* stream, void** graph) {
  std::lock_guard lock(guard);
  auto* s = static_cast<Stream*>(stream);
  *graph = nullptr;
  if (!is_capturing(stream)) return kIllegalState;
  if (s->mode != CaptureMode::Relaxed && s->thread != std::this_thread::get_id())
    return kCaptureWrongThread;
  s->capturing = false;
  if (s->invalidated) return s->captured.clear(), kCaptureInvalidated;
  *graph = new Graph{std::move(s->captured)};
  s->captured = {};
  return kSuccess;
}

API cuGraphGetNodes(void* graph, void**, size_t* count) {
  return *count = static_cast<Graph*>(graph)->nodes.size(), kSuccess;
}
API cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
  std::lock_guard lock(guard);
  return *exec = new Graph(*static_cast<Graph*>(graph)), kSuccess;
}
API cuGraphUpload(void*, void*) { return kSuccess; }
API cuGraphLaunch(void* exec, void* stream) {
  std::lock_guard lock(guard);
  if (is_capturing(stream)) return kCaptureUnsupported;  // a graph in a graph
  return submit(stream, [exec] {
    for (const Work& node : static_cast<Graph*>(exec)->nodes)
      if (const unsigned code = node()) return code;
    return unsigned(kSuccess);
  });
}
API cuGraphExecDestroy(void* exec) {
  std::lock_guard lock(guard);
  return delete static_cast<Graph*>(exec), kSuccess;
}
API cuGraphDestroy(void* graph) {
  std::lock_guard lock(guard);
  return delete static_cast<Graph*>(graph), kSuccess;
}

API cuEventCreate(void** e, unsigned flags) {
  return *e = new Event{(flags & kDisableTiming) == 0, false, false, {}}, kSuccess;
}
API cuEventDestroy_v2(void* e) { return delete static_cast<Event*>(e), kSuccess; }
API cuEventRecord(void* event, void* stream) {
  std::lock_guard lock(guard);
  auto* e = static_cast<Event*>(event);
  e->captured = is_capturing(stream);
  if (e->captured) return static_cast<Stream*>(stream)->invalidated ? kCaptureInvalidated : kSuccess;
  e->recorded = true, e->at = Clock::now(), e->landed = last_landing;
  return kSuccess;
}
API cuEventSynchronize(void* e) {
  std::lock_guard lock(guard);
  const auto* event = static_cast<Event*>(e);
  if (event->captured) return kCapturedEvent;
  return land_until(event->landed), kSuccess;
}
API cuEventQuery(void* e) { return cuEventSynchronize(e); }
API cuEventElapsedTime_v2(float* ms, void* start, void* end) {
  std::lock_guard lock(guard);
  const auto *a = static_cast<Event*>(start), *b = static_cast<Event*>(end);
  if (a->captured || b->captured) return kCapturedEvent;
  if (!a->recorded || !b->recorded || !a->timed || !b->timed) return kInvalidHandle;
  *ms = std::chrono::duration<float, std::milli>(b->at - a->at).count();
  return kSuccess;
}
API cuEventElapsedTime(float* ms, void* start, void* end) {
  return cuEventElapsedTime_v2(ms, start, end);
}
