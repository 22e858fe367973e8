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

// A Scratch for each thread: what Scratch::take(arena, arguments...) cuts out.
template <class Scratch>
struct PerThread {
  char* base;
  std::int64_t bytes;

  template <class... Arguments>
  static PerThread take(Arena& arena, int threads, const Arguments&... arguments) {
    Arena one(nullptr);
    Scratch::take(one, arguments...);
    return {arena.take<char>(threads * one.used()), one.used()};
  }

  template <class... Arguments>
  auto of_thread(int thread, const Arguments&... arguments) const {
    Arena one(base + thread * bytes);
    return Scratch::take(one, arguments...);
  }
};

}  // namespace sslkern::cpu::SSLKERN_ISA
