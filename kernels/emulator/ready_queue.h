// Fibers that can run, in the order they will.
#pragma once
#include <cstddef>
#include <utility>
#include <vector>

namespace emulator {

struct Fiber;

// A ring: every fiber is in it at most once, so it never grows after `reset`.
class ReadyQueue {
 public:
  void reset(size_t fibers) {
    size_t n = 1;
    while (n < fibers + 1) n *= 2;
    ring_.resize(n);
    head_ = size_ = 0;
  }
  bool empty() const { return size_ == 0; }
  size_t size() const { return size_; }
  void push_back(Fiber* f) { at(size_++) = f; }
  void push_front(Fiber* f) { --head_, ++size_, at(0) = f; }
  Fiber* take(size_t i) {  // the i-th becomes the first, and leaves
    std::swap(at(0), at(i));
    Fiber* f = at(0);
    ++head_, --size_;
    return f;
  }

 private:
  Fiber*& at(size_t i) { return ring_[(head_ + i) & (ring_.size() - 1)]; }
  std::vector<Fiber*> ring_;
  size_t head_ = 0, size_ = 0;
};

}  // namespace emulator
