// What the emulated driver refuses and records as the real one does: driver MODULE.so.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" {
unsigned cuStreamCreate(void**, unsigned);
unsigned cuStreamDestroy_v2(void*);
unsigned cuStreamSynchronize(void*);
unsigned cuStreamBeginCapture_v2(void*, int);
unsigned cuStreamEndCapture(void*, void**);
unsigned cuStreamIsCapturing(void*, int*);
unsigned cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
unsigned cuGraphGetNodes(void*, void**, size_t*);
unsigned cuGraphLaunch(void*, void*);
unsigned cuGraphExecDestroy(void*);
unsigned cuGraphDestroy(void*);
unsigned cuEventCreate(void**, unsigned);
unsigned cuEventRecord(void*, void*);
unsigned cuEventSynchronize(void*);
unsigned cuEventElapsedTime(float*, void*, void*);
unsigned cuEventDestroy_v2(void*);
unsigned cuMemAlloc_v2(uint64_t*, size_t);
unsigned cuMemFree_v2(uint64_t);
unsigned cuMemGetInfo_v2(size_t*, size_t*);
unsigned cuMemHostAlloc(void**, size_t, unsigned);
unsigned cuMemFreeHost(void*);
unsigned cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
unsigned cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
unsigned cuMemsetD8Async(uint64_t, unsigned char, size_t, void*);
unsigned cuModuleLoadData(void**, const void*);
unsigned cuModuleGetFunction(void**, void*, const char*);
unsigned cuFuncGetAttribute(int*, int, void*);
unsigned cuOccupancyMaxActiveBlocksPerMultiprocessor(int*, void*, int, size_t);
unsigned cuDeviceGetAttribute(int*, int, int);
unsigned cuGetErrorName(unsigned, const char**);
unsigned cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                        void*, void**, void**);
unsigned cuLaunchKernelEx(const void*, void*, void**, void**);
unsigned cuTensorMapEncodeTiled(void*, int, unsigned, void*, const uint64_t*, const uint64_t*,
                                const uint32_t*, const uint32_t*, int, int, int, int);
}

#define CHECK(WHAT, CODE)                                                              \
  do {                                                                                 \
    const unsigned got = (WHAT);                                                       \
    if (got != unsigned(CODE)) {                                                       \
      std::printf("line %d: %s is %u, expected %u\n", __LINE__, #WHAT, got, unsigned(CODE)); \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (0)

struct Args {  // of selftest_reverse
  uint64_t in, out;
  int len, offset;
};

void* stream;
void* reverse;
uint64_t in, out;

unsigned launch(int len) {
  Args a{in, out, len, 0};
  void* list[] = {&a};
  return cuLaunchKernel(reverse, 2, 1, 1, 64, 1, 1, 256, stream, list, nullptr);
}

float result(int i) {
  float v[128];
  CHECK(cuMemcpyDtoHAsync_v2(v, out, 512, stream), 0);
  return v[i];
}

// Kernels, a memset and a copy from pinned memory: recorded, not executed; replayed twice.
void graphs() {
  void *graph, *exec, *pinned;
  size_t nodes;
  int status;
  CHECK(cuMemHostAlloc(&pinned, 512, 0), 0);
  for (int i = 0; i < 128; ++i) static_cast<float*>(pinned)[i] = float(i);
  CHECK(cuMemsetD8Async(in, 0, 512, stream), 0);
  CHECK(cuMemsetD8Async(out, 0, 512, stream), 0);
  CHECK(cuStreamBeginCapture_v2(stream, 1), 0);
  CHECK(cuStreamBeginCapture_v2(stream, 1), 401);  // it is capturing already
  CHECK(cuMemsetD8Async(out, 1, 512, stream), 0);
  CHECK(cuMemcpyHtoDAsync_v2(in, pinned, 512, stream), 0);
  CHECK(launch(128), 0);
  CHECK(cuStreamIsCapturing(stream, &status), 0);
  CHECK(status, 1);
  CHECK(cuStreamEndCapture(stream, &graph), 0);
  CHECK(result(0), 0);  // nothing has run
  CHECK(cuGraphGetNodes(graph, nullptr, &nodes), 0);
  CHECK(nodes, 3);
  CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0), 0);
  CHECK(cuGraphDestroy(graph), 0);
  CHECK(cuGraphLaunch(exec, stream), 0);
  CHECK(result(0), 63);
  static_cast<float*>(pinned)[63] = 7;  // a graph reads host memory when it runs
  CHECK(cuGraphLaunch(exec, stream), 0);
  CHECK(result(0), 7);
  CHECK(cuGraphExecDestroy(exec), 0);
  CHECK(cuMemFreeHost(pinned), 0);
  CHECK(cuMemFreeHost(pinned), 1);
}

// What may synchronize or allocate is refused while a stream captures, and ends the capture.
void forbidden(unsigned (*call)()) {
  void* graph = &graph;
  int status;
  CHECK(cuStreamBeginCapture_v2(stream, 1), 0);
  CHECK(call(), 900);
  CHECK(cuStreamIsCapturing(stream, &status), 0);
  CHECK(status, 2);
  CHECK(launch(128), 901);
  CHECK(cuStreamEndCapture(stream, &graph), 901);
  CHECK(graph == nullptr, true);
  CHECK(launch(128), 0);  // the stream works again
}

void captures() {
  forbidden([] { return cuStreamSynchronize(stream); });
  forbidden([] {
    uint64_t p;
    return cuMemAlloc_v2(&p, 64);
  });
  forbidden([] { return cuMemFree_v2(in); });
  forbidden([] {
    void* p;
    return cuMemHostAlloc(&p, 64, 0);
  });
  void* graph;
  char pageable[16] = {};
  CHECK(cuStreamEndCapture(stream, &graph), 401);
  CHECK(cuStreamBeginCapture_v2(stream, 2), 0);  // relaxed: allocations are allowed
  uint64_t p;
  CHECK(cuMemAlloc_v2(&p, 64), 0);
  CHECK(cuMemFree_v2(p), 0);
  CHECK(cuMemcpyHtoDAsync_v2(in, pageable, 16, stream), 900);
  CHECK(cuStreamEndCapture(stream, &graph), 0);
  CHECK(cuGraphDestroy(graph), 0);
  CHECK(cuStreamBeginCapture_v2(nullptr, 0), 900);
}

void events() {
  void *a, *b, *untimed;
  float ms = -1;
  CHECK(cuEventCreate(&a, 0), 0);
  CHECK(cuEventCreate(&b, 0), 0);
  CHECK(cuEventCreate(&untimed, 2), 0);
  CHECK(cuEventElapsedTime(&ms, a, b), 400);  // not recorded
  CHECK(cuEventRecord(a, stream), 0);
  CHECK(launch(128), 0);
  CHECK(cuEventRecord(b, stream), 0);
  CHECK(cuEventRecord(untimed, stream), 0);
  CHECK(cuEventSynchronize(b), 0);
  CHECK(cuEventElapsedTime(&ms, a, b), 0);
  CHECK(ms > 0 && ms < 1e5, true);
  CHECK(cuEventElapsedTime(&ms, a, untimed), 400);
  for (void* e : {a, b, untimed}) CHECK(cuEventDestroy_v2(e), 0);
}

void memory() {
  size_t free, total, less;
  uint64_t p;
  CHECK(cuMemGetInfo_v2(&free, &total), 0);
  CHECK(cuMemAlloc_v2(&p, 1 << 20), 0);
  CHECK(cuMemGetInfo_v2(&less, &total), 0);
  CHECK(free - less, 1 << 20);
  CHECK(cuMemFree_v2(p), 0);
  CHECK(cuMemFree_v2(p), 1);
  CHECK(cuMemAlloc_v2(&p, free + 1), 2);
}

struct Config {
  unsigned grid[3], block[3], shared_bytes;
  void* stream;
  const void* attributes;
  unsigned count;
};
struct Cluster {
  unsigned id = 4, unused = 0, x, y, z, rest[13] = {};
};

void launches() {
  int n;
  const char* name;
  CHECK(cuFuncGetAttribute(&n, 0, reverse), 0);
  CHECK(n, 64);
  CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&n, reverse, 64, 256), 0);
  CHECK(n >= 1 && n <= 32, true);
  CHECK(cuDeviceGetAttribute(&n, 16, 0), 0);
  CHECK(n, 4);
  Args a{in, out, 128, 0};
  void* list[] = {&a};
  CHECK(cuLaunchKernel(reverse, 2, 1, 1, 128, 1, 1, 256, stream, list, nullptr), 1);  // its tile has 64
  CHECK(cuLaunchKernel(reverse, 2, 1, 1, 64, 1, 1, 60 << 10, stream, list, nullptr), 1);
  Cluster two{.x = 2, .y = 1, .z = 1}, many{.x = 16, .y = 1, .z = 1};
  Config c{{2, 1, 1}, {64, 1, 1}, 256, stream, &two, 1};
  CHECK(cuLaunchKernelEx(&c, reverse, list, nullptr), 719);
  CHECK(cuGetErrorName(719, &name), 0);
  CHECK(std::strstr(name, "made for clusters of 1 blocks, launched with 2") != nullptr, true);
  c.attributes = &many;
  CHECK(cuLaunchKernelEx(&c, reverse, list, nullptr), 912);
  c.count = 0;
  CHECK(cuLaunchKernelEx(&c, reverse, list, nullptr), 0);
}

void tensor_maps() {
  alignas(64) char map[192];
  alignas(16) static char data[1 << 16];
  const uint64_t dim[] = {72, 50}, stride[] = {144}, odd_stride[] = {150}, none[] = {0, 50};
  const uint32_t box[] = {64, 32}, wide[] = {72, 32}, tall[] = {64, 257}, narrow[] = {4, 32};
  const uint32_t ones[] = {1, 1}, twos[] = {2, 1};
  auto encode = [&](void* m, void* p, const uint64_t* d, const uint64_t* s, const uint32_t* b,
                    const uint32_t* e, int swizzle, unsigned rank = 2) {
    return cuTensorMapEncodeTiled(m, 9, rank, p, d, s, b, e, 0, swizzle, 2, 0);
  };
  CHECK(encode(map, data, dim, stride, box, ones, 3), 0);
  CHECK(encode(map, data, dim, stride, narrow, ones, 0), 1);    // 8 bytes
  CHECK(encode(map + 16, data, dim, stride, box, ones, 3), 1);  // the map itself
  CHECK(encode(map, data + 8, dim, stride, box, ones, 3), 1);
  CHECK(encode(map, data, dim, odd_stride, box, ones, 3), 1);
  CHECK(encode(map, data, none, stride, box, ones, 3), 1);
  CHECK(encode(map, data, dim, stride, wide, ones, 3), 1);  // 144 bytes under a swizzle of 128
  CHECK(encode(map, data, dim, stride, wide, ones, 0), 0);
  CHECK(encode(map, data, dim, stride, box, ones, 2), 1);
  CHECK(encode(map, data, dim, stride, tall, ones, 3), 1);
  CHECK(encode(map, data, dim, stride, box, twos, 3), 1);
  CHECK(encode(map, data, dim, stride, box, ones, 3, 6), 1);
}

int main(int count, char** words) {
  if (count != 2) return std::printf("usage: driver MODULE.so\n"), 2;
  std::ifstream file(words[1], std::ios::binary);
  const std::string image{std::istreambuf_iterator<char>(file), {}};
  void* module;
  CHECK(cuModuleLoadData(&module, image.data()), 0);
  CHECK(cuModuleGetFunction(&reverse, module, "selftest_absent"), 500);
  CHECK(cuModuleGetFunction(&reverse, module, "selftest_reverse"), 0);
  CHECK(cuStreamCreate(&stream, 1), 0);
  CHECK(cuMemAlloc_v2(&in, 512), 0);
  CHECK(cuMemAlloc_v2(&out, 512), 0);
  launches();
  graphs();
  captures();
  events();
  memory();
  tensor_maps();
  CHECK(cuStreamDestroy_v2(stream), 0);
  std::printf("ok\n");
  return 0;
}
