#include "platform/simt/shared.h"

#include <cstdlib>
#include <cstring>
#include <map>

#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace sslkern::simt {
namespace {

constexpr std::size_t kArenaBytes = 512 << 10;
constexpr std::size_t kGap =
    256;  // between variables: what runs over one end meets nobody's memory

struct Arena {
  char* data = nullptr;
  Range* range = nullptr;
  std::size_t used = 0, taken = 0;  // with and without the gaps
  std::map<const void*, std::size_t> offset_of;

  void open() {
    if (data != nullptr) return;
    data = static_cast<char*>(std::aligned_alloc(4096, kArenaBytes));
    if (data == nullptr) std::abort();
    range = &add_range(data, kArenaBytes, true);
  }

  void* take(std::size_t bytes, std::size_t alignment, const char* name) {
    const std::size_t offset = (used + alignment - 1) / alignment * alignment;
    taken += bytes;
    if (taken > config().limits.shared_bytes) {
      report("limits", "%zu bytes of shared memory with %s, %zu are there", taken, name,
             config().limits.shared_bytes);
    }
    if (offset + bytes + kGap > kArenaBytes) std::abort();  // beyond what any limit allows
    used = offset + bytes + kGap;
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
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(arena.data, kArenaBytes);
#endif
  std::memset(arena.data, config().poison, kArenaBytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(arena.data, kArenaBytes);
#endif
  std::fill(arena.range->cells.begin(), arena.range->cells.end(), Cell{});
  arena.offset_of.clear();
  arena.used = arena.taken = 0;
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
