#include "platform/simt/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace sslkern::simt {
namespace {

constexpr std::size_t kGuardPage = 64 << 10;  // as large as pages get

// The scheduler's own stack.
struct Scheduler {
#if SSLKERN_SIMT_ASSEMBLY
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  void* fake_stack = nullptr;
  const void* stack = nullptr;
  std::size_t stack_bytes = 0;
} scheduler;

// AddressSanitizer must know which stack is in use; without it these do nothing.
void before_switch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] std::size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(fake_stack, stack, bytes);
#endif
}

void after_switch([[maybe_unused]] void* fake_stack, [[maybe_unused]] bool from_scheduler) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, from_scheduler ? &scheduler.stack : nullptr,
                                  from_scheduler ? &scheduler.stack_bytes : nullptr);
#endif
}

}  // namespace

#if SSLKERN_SIMT_ASSEMBLY
// Saves the callee-saved registers and the modes of SSE on this stack, and goes on with another
// one. swapcontext would make a system call for the signal mask every time. The modes of the x87,
// which are slow to load, are left alone: nobody sets them.
extern "C" void sslkern_simt_switch(void** save, void* load);
asm(R"(
.text
.globl sslkern_simt_switch
.type sslkern_simt_switch, @function
sslkern_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  subq $8, %rsp
  stmxcsr (%rsp)
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  ldmxcsr (%rsp)
  addq $8, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sslkern_simt_switch, . - sslkern_simt_switch
)");
#endif

Fiber::~Fiber() { release(); }

void Fiber::release() {
  if (stack_ != nullptr) munmap(stack_ - kGuardPage, bytes_ + kGuardPage);
  stack_ = nullptr;
}

// Below the stack lies a page that nobody may touch: one that is too small ends the program.
void Fiber::allocate(std::size_t stack_bytes) {
  if (stack_ != nullptr && bytes_ == stack_bytes) return;
  release();
  void* p = mmap(nullptr, stack_bytes + kGuardPage, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, kGuardPage, PROT_NONE);
  stack_ = static_cast<char*>(p) + kGuardPage;
  bytes_ = stack_bytes;
}

void Fiber::start(std::size_t stack_bytes, void (*entry)()) {
  allocate(stack_bytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stack_, bytes_);  // what the last run left
#endif
#if SSLKERN_SIMT_ASSEMBLY
  // As sslkern_simt_switch would have left it: the address to return to, six registers, the modes.
  auto* top =
      reinterpret_cast<std::uint64_t*>((std::uintptr_t(stack_) + bytes_) & ~std::uintptr_t(15));
  *--top = 0;  // where a call would have put its return address: keeps the stack aligned
  *--top = reinterpret_cast<std::uint64_t>(reinterpret_cast<void*>(entry));
  for (int i = 0; i < 6; ++i) *--top = 0;
  *--top = 0x1f80;
  stack_pointer_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = bytes_;
  context_.uc_link = &scheduler.context;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::resume() {
  before_switch(&scheduler.fake_stack, stack_, bytes_);
#if SSLKERN_SIMT_ASSEMBLY
  sslkern_simt_switch(&scheduler.stack_pointer, stack_pointer_);
#else
  swapcontext(&scheduler.context, &context_);
#endif
  after_switch(scheduler.fake_stack, false);
}

void Fiber::leave(bool ending) {
  before_switch(ending ? nullptr : &fake_stack_, scheduler.stack, scheduler.stack_bytes);
#if SSLKERN_SIMT_ASSEMBLY
  sslkern_simt_switch(&stack_pointer_, scheduler.stack_pointer);
#else
  swapcontext(&context_, &scheduler.context);
#endif
  after_switch(fake_stack_, true);
}

void Fiber::entered() { after_switch(nullptr, true); }

}  // namespace sslkern::simt
