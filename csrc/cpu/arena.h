// Cuts one workspace into arrays. Run over a null base it measures instead: size and layout cannot
// disagree.
#pragma once
#include "cpu/simd.h"

namespace sslkern::cpu::SSLKERN_ISA {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <class T>
  T* take(std::int64_t count) {
    char* p = base_ + used_;
    // Two lines apart: neighbouring arrays never share a line, nor the pair that the prefetcher
    // loads together.
    used_ += (count * std::int64_t(sizeof(T)) + 2 * kCacheLine - 1) / (2 * kCacheLine) *
             (2 * kCacheLine);
    return reinterpret_cast<T*>(p);
  }

  std::int64_t used() const { return used_; }

 private:
  char* base_;
  std::int64_t used_ = 0;
};

}  // namespace sslkern::cpu::SSLKERN_ISA
