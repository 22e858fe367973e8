#include "platform/simt/shared.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>

#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace sslkern::simt {
namespace {

struct Arena {
  char* data = nullptr;
  Range* range = nullptr;
  std::size_t used = 0, taken = 0;  // with and without the gaps
  std::map<const void*, std::size_t> offset_of;

  void open() {
    if (data != nullptr) return;
    data = static_cast<char*>(std::aligned_alloc(4096, kArenaBytes));
    if (data == nullptr) throw std::bad_alloc();
    range = &add_range(data, kArenaBytes, true);
    used = kArenaBytes;
  }

  // Forgets all variables. Behind them is nothing that a kernel may touch.
  void clear() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(data, kArenaBytes);
#endif
    std::memset(data, config().poison, used);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(data, kArenaBytes);
#endif
    forget_cells(*range, 0, used);
    offset_of.clear();
    used = taken = 0;
  }

  void* take(std::size_t bytes, std::size_t alignment, const char* name) {
    const std::size_t offset = (used + alignment - 1) / alignment * alignment;
    const std::size_t most = config().limits.shared_bytes;
    taken += bytes;
    if (taken > most || offset + bytes + kGap > kArenaBytes) {
      report("limits", "%zu bytes of shared memory with %s, %zu are there", taken, name, most);
      machine().stop();
    }
    used = (offset + bytes + kGap + 15) / 16 * 16;
    renew_cells(*range, offset, bytes, false);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(data + offset, bytes);
#endif
    return data + offset;
  }
} arena;

}  // namespace

void renew_shared(std::size_t dynamic_bytes) {
  arena.open();
  arena.clear();
  arena.take(dynamic_bytes, 16, "dynamic memory");  // at offset 0
}

void* dynamic_shared() { return arena.data; }

void* shared_variable(const void* site, std::size_t bytes, std::size_t alignment,
                      const char* name) {
  const auto found = arena.offset_of.find(site);
  if (found != arena.offset_of.end()) return arena.data + found->second;
  auto* p = static_cast<char*>(arena.take(bytes, alignment, name));
  arena.offset_of[site] = std::size_t(p - arena.data);
  return p;
}

}  // namespace sslkern::simt
