#include "platform/ptx/access.h"

#include "platform/simt/shadow.h"

namespace sslkern::ptx {
namespace {

void check_local(Thread& t, const Instruction& i, const char* p, std::size_t bytes,
                 simt::Access access) {
  LocalMemory& local = t.local;
  if (!local.holds(p) || !local.holds(p + bytes - 1)) {
    t.report_and_stop(i, "out of bounds", "beyond local memory");
  }
  const auto offset = std::size_t(reinterpret_cast<const unsigned char*>(p) - local.bytes.data());
  for (std::size_t k = offset; k < offset + bytes; ++k) {
    if (access == simt::Access::kRead && !local.written[k] && simt::config().uninitialised) {
      t.report(i, "uninitialised", "read of local memory");
      break;
    }
    local.written[k] = true;
  }
}

// Whether all of it is in memory that the emulation knows.
bool is_known(const char* p, std::size_t bytes) {
  const simt::Range* range = simt::find_range(p);
  return range != nullptr && p >= range->begin && p + bytes <= range->begin + range->bytes;
}

}  // namespace

char* address_of(const Thread& t, const Instruction& i) {
  const auto base = t.get<std::uint64_t>(i.from[0]);
  if (i.space != Space::kShared) {
    return reinterpret_cast<char*>(base + std::uint64_t(i.offset));
  }
  // 32-bit offsets wrap; one just below zero is reported as such.
  const std::uint64_t offset = base + std::uint64_t(i.offset);
  const std::int64_t signed_offset = i.narrow ? std::int32_t(offset) : std::int64_t(offset);
  return reinterpret_cast<char*>(reinterpret_cast<std::uint64_t>(t.shared) +
                                 std::uint64_t(signed_offset));
}

void check_access(Thread& t, const Instruction& i, char* p, std::size_t bytes,
                  simt::Access access) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) {
    t.report(i, "alignment", "an address off its boundary of " + std::to_string(bytes) + " bytes");
  }
  if (i.space == Space::kLocal || (i.space == Space::kGeneric && t.local.holds(p))) {
    return check_local(t, i, p, bytes, access);
  }
  simt::note_access(p, bytes, access, {nullptr, t.at(i)});
  // What the program itself may read and write is no memory of the kernel.
  if (!is_known(p, bytes)) t.report_and_stop(i, "out of bounds", "no memory of the kernel");
}

}  // namespace sslkern::ptx
