// cp.async: what is copied to is poisoned when the copy is issued, and filled when the thread that
// issued it waits for it; the hardware may do either at any time between.
#include <cstring>

#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

namespace sslkern::simt {

void copy_async(void* to, const void* from, int bytes, int bytes_read, At at) {
  Thread& t = machine().current();
  const auto misplaced = [&](const void* p) { return std::uintptr_t(p) % unsigned(bytes) != 0; };
  if (misplaced(to) || (bytes_read > 0 && misplaced(from))) {
    report("alignment", "cp.async at line %d: an address off its boundary of %d bytes", at.line,
           bytes);
  }
  if (bytes_read > 0) note_access(from, std::size_t(bytes_read), Access::kRead, {nullptr, at});
  note_access(to, std::size_t(bytes), Access::kWrite, {nullptr, at});
  Range* range = find_range(to);
  if (range == nullptr || !range->shared) {
    return report("out of bounds", "cp.async at line %d writes to what is no shared memory",
                  at.line);
  }
  const std::size_t offset = std::size_t(static_cast<char*>(to) - range->begin);
  if (offset + std::size_t(bytes) > range->bytes) return;
  std::memset(to, config().poison, std::size_t(bytes));
  for (int i = 0; i < bytes; i += int(kCellBytes)) {
    range->cells_of(offset + std::size_t(i))->copying = true;
  }
  t.open.push_back({to, from, bytes, bytes_read, at});
}

void commit_copies() {
  Thread& t = machine().current();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void wait_for_copies(int groups_left) {
  Thread& t = machine().current();
  for (; int(t.groups.size()) > groups_left; t.groups.pop_front()) {
    for (const PendingCopy& copy : t.groups.front()) {
      note_access(copy.to, std::size_t(copy.bytes), Access::kWrite, {nullptr, copy.at});
      std::memset(copy.to, 0, std::size_t(copy.bytes));
      std::memcpy(copy.to, copy.from, std::size_t(copy.bytes_read));
    }
  }
}

}  // namespace sslkern::simt
