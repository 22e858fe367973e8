// Fibers: stacks that take turns on one thread of the system.
#pragma once
#include <cstddef>

// Where switches are written in assembly; elsewhere, and for the test of it, by the system.
#if defined(__x86_64__) && !defined(SSLKERN_SIMT_UCONTEXT)
#define SSLKERN_SIMT_ASSEMBLY 1
#else
#define SSLKERN_SIMT_ASSEMBLY 0
#include <ucontext.h>
#endif

namespace sslkern::simt {

class Fiber {
 public:
  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares a run of `entry`, which must end with leave(true) and not return.
  void start(std::size_t stack_bytes, void (*entry)());
  void resume();            // from the scheduler
  void leave(bool ending);  // back to the scheduler
  static void entered();    // to be called first in `entry`

  bool owns(const char* p) const { return p >= stack_ && p < stack_ + bytes_; }

 private:
  void allocate(std::size_t stack_bytes);
  void release();

  char* stack_ = nullptr;
  std::size_t bytes_ = 0;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
#if SSLKERN_SIMT_ASSEMBLY
  void* stack_pointer_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace sslkern::simt
