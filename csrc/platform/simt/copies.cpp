// cp.async: what is copied to is poisoned when the copy is issued, and filled when the thread that
// issued it waits for it; the hardware may do either at any time between.
#include <cstring>

#include "platform/simt/machine.h"
#include "platform/simt/shadow.h"

namespace sslkern::simt {

namespace {

void complain(const char* kind, At at, const char* what) {
  report_at(kind, {nullptr, at}, "cp.async %s", what);
}

Cell* cells_of(const void* shared) {
  Range* range = find_range(shared);
  return range->cells_of(std::size_t(static_cast<const char*>(shared) - range->begin));
}

// From here on both belong to the thread that issued the copy again.
void finish(const PendingCopy& copy) {
  if (std::memcmp(copy.from, copy.source, std::size_t(copy.bytes_read)) != 0) {
    complain("race", copy.at, "whose source was written to before the wait");
  }
  Cell* cells = cells_of(copy.to);
  for (int i = 0; i < copy.bytes; i += int(kCellBytes)) (cells++)->copying = false;
  note_access(copy.to, std::size_t(copy.bytes), Access::kWrite, {nullptr, copy.at});
  std::memset(copy.to, 0, std::size_t(copy.bytes));
  std::memcpy(copy.to, copy.from, std::size_t(copy.bytes_read));
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, int bytes_read, At at) {
  Thread& t = machine().current();
  const auto misplaced = [&](const void* p) { return std::uintptr_t(p) % unsigned(bytes) != 0; };
  if (misplaced(to) || (bytes_read > 0 && misplaced(from))) {
    complain("alignment", at, "with an address off its boundary");
  }
  const Range* range = find_range(to);
  if (range == nullptr || !range->shared) {
    complain("out of bounds", at, "to what is no shared memory");
    machine().stop();
  }
  if (bytes_read < 0 || bytes_read > bytes) {
    complain("out of bounds", at, "that reads more bytes than it copies, or fewer than none");
    machine().stop();
  }
  if (bytes_read > 0) note_access(from, std::size_t(bytes_read), Access::kRead, {nullptr, at});
  note_access(to, std::size_t(bytes), Access::kWrite, {nullptr, at});
  std::memset(to, config().poison, std::size_t(bytes));
  Cell* cells = cells_of(to);
  for (int i = 0; i < bytes; i += int(kCellBytes)) (cells++)->copying = true;
  PendingCopy copy{to, from, bytes, bytes_read, at, {}};
  std::memcpy(copy.source, from, std::size_t(bytes_read));
  t.open.push_back(copy);
}

void commit_copies() {
  Thread& t = machine().current();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}

void wait_for_copies(int groups_left) {
  Thread& t = machine().current();
  for (; int(t.groups.size()) > groups_left; t.groups.pop_front()) {
    for (const PendingCopy& copy : t.groups.front()) finish(copy);
  }
}

}  // namespace sslkern::simt
