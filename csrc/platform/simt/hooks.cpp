// Takes the place of ThreadSanitizer's library: what -fsanitize=thread puts before every load and
// store of a kernel comes here.
#include <cstdint>
#include <cstring>

#include "platform/simt/runtime.h"

using sslkern::simt::Access;
using sslkern::simt::note_access;

namespace {

void note_aligned(const void* p, std::size_t bytes, Access access, void* program_counter) {
  using namespace sslkern::simt;
  const Origin origin{program_counter};
  if (here != nullptr && std::uintptr_t(p) % bytes != 0) {
    report_at("alignment", origin, "an access of %zu bytes off their boundary", bytes);
  }
  note_access(p, bytes, access, origin);
}

}  // namespace

#define SSLKERN_HOOK(NAME, BYTES, ACCESS) \
  void NAME(void* p) { note_access(p, BYTES, Access::ACCESS, {__builtin_return_address(0)}); }
#define SSLKERN_ALIGNED_HOOK(NAME, BYTES, ACCESS) \
  void NAME(void* p) { note_aligned(p, BYTES, Access::ACCESS, __builtin_return_address(0)); }
#define SSLKERN_HOOKS(PREFIX, BYTES)              \
  SSLKERN_HOOK(PREFIX##read##BYTES, BYTES, kRead) \
  SSLKERN_HOOK(PREFIX##write##BYTES, BYTES, kWrite)
#define SSLKERN_ALIGNED_HOOKS(PREFIX, BYTES)              \
  SSLKERN_ALIGNED_HOOK(PREFIX##read##BYTES, BYTES, kRead) \
  SSLKERN_ALIGNED_HOOK(PREFIX##write##BYTES, BYTES, kWrite)

extern "C" {
SSLKERN_ALIGNED_HOOKS(__tsan_, 1)
SSLKERN_ALIGNED_HOOKS(__tsan_, 2)
SSLKERN_ALIGNED_HOOKS(__tsan_, 4)
SSLKERN_ALIGNED_HOOKS(__tsan_, 8)
SSLKERN_ALIGNED_HOOKS(__tsan_, 16)
SSLKERN_HOOKS(__tsan_unaligned_, 2)
SSLKERN_HOOKS(__tsan_unaligned_, 4)
SSLKERN_HOOKS(__tsan_unaligned_, 8)
SSLKERN_HOOKS(__tsan_unaligned_, 16)

void __tsan_read_range(void* p, std::size_t bytes) {
  note_access(p, bytes, Access::kRead, {__builtin_return_address(0)});
}
void __tsan_write_range(void* p, std::size_t bytes) {
  note_access(p, bytes, Access::kWrite, {__builtin_return_address(0)});
}
void* __tsan_memset(void* p, int value, std::size_t bytes) {
  note_access(p, bytes, Access::kWrite, {__builtin_return_address(0)});
  return std::memset(p, value, bytes);
}
void* __tsan_memcpy(void* to, const void* from, std::size_t bytes) {
  note_access(from, bytes, Access::kRead, {__builtin_return_address(0)});
  note_access(to, bytes, Access::kWrite, {__builtin_return_address(0)});
  return std::memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, std::size_t bytes) {
  note_access(from, bytes, Access::kRead, {__builtin_return_address(0)});
  note_access(to, bytes, Access::kWrite, {__builtin_return_address(0)});
  return std::memmove(to, from, bytes);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
}
