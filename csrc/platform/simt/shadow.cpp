#include "platform/simt/shadow.h"

#include <dlfcn.h>

#include <functional>
#include <map>
#include <memory>

#include "platform/simt/machine.h"
#include "platform/simt/source.h"

namespace sslkern::simt {
namespace {

// By address, descending: the first that is not above p is the one that p lies in or behind.
std::map<const char*, std::unique_ptr<Range>, std::greater<const char*>> ranges;
Range* latest = nullptr;

const char* name_of(Access access) {
  switch (access) {
    case Access::kRead:
      return "read";
    case Access::kWrite:
      return "write";
    case Access::kAtomic:
      return "atomic";
  }
  return "";
}

// One access of one thread to one cell.
struct Visit {
  const Range& range;
  std::size_t offset;  // of the first byte, in the range
  Access access;
  const Thread& thread;
  const Clock& clock;
  Origin origin;

  const char* space() const { return range.shared ? "shared" : "global"; }
  std::uint32_t warp_epoch() const { return clock.warp_epoch[thread.warp]; }
  bool reads() const { return access != Access::kWrite; }
  bool writes() const { return access != Access::kRead; }
};

bool in_this_launch_before_this_block(const Clock& clock, std::uint32_t epoch) {
  return epoch >= clock.launch_start && epoch < clock.block_start;
}

// Whether nothing orders this thread after an access of `other` at these epochs, in this block.
bool unordered(const Visit& v, unsigned other, std::uint32_t epoch, std::uint32_t warp_epoch) {
  if (epoch != v.clock.epoch || other == v.thread.linear) return false;
  return other / kWarpSize != v.thread.warp || warp_epoch == v.warp_epoch();
}

void report_race(const Visit& v, const char* earlier, unsigned other) {
  if (!first_at("race", v.origin)) return;
  report("race", "%s %s at byte %zu of a %zu-byte range and an earlier %s by thread %u (%s)",
         v.space(), name_of(v.access), v.offset, v.range.bytes, earlier, other,
         source_of(v.origin).c_str());
}

// The earlier access that this one races with, if any.
void check_race(const Visit& v, const Cell& c) {
  const bool both_atomic = v.access == Access::kAtomic && c.atomic_write;
  if (!both_atomic) {
    if (unordered(v, c.writer, c.write_epoch, c.write_warp_epoch)) {
      return report_race(v, "write", c.writer);
    }
    if (in_this_launch_before_this_block(v.clock, c.write_epoch)) {
      return report_race(v, "write of another block", c.writer);
    }
  }
  if (!v.writes()) return;
  const bool read_by_others_too = c.read_epoch == v.clock.epoch && c.several_lanes &&
                                  c.reader / kWarpSize == v.thread.warp &&
                                  c.read_warp_epoch == v.warp_epoch();
  if (read_by_others_too || unordered(v, c.reader, c.read_epoch, c.read_warp_epoch)) {
    return report_race(v, "read", c.reader);
  }
  if (c.other_warp_epoch == v.clock.epoch && c.other_warp != v.thread.warp) {
    return report_race(v, "read", c.other_warp * kWarpSize);
  }
  if (in_this_launch_before_this_block(v.clock, c.read_epoch) ||
      in_this_launch_before_this_block(v.clock, c.other_block_epoch)) {
    report_race(v, "read of another block", c.reader);
  }
}

void check_contents(const Visit& v, Cell& c) {
  if (!v.reads()) return;
  if (c.copying) {
    c.copying = false;
    if (!first_at("early read", v.origin)) return;
    report("early read", "byte %zu of shared memory, while cp.async is copying to it (%s)",
           v.offset, source_of(v.origin).c_str());
  } else if (!c.initialised && config().uninitialised) {
    c.initialised = true;
    if (!first_at("uninitialised", v.origin)) return;
    report("uninitialised", "%s %s of byte %zu of a %zu-byte range (%s)", v.space(),
           name_of(v.access), v.offset, v.range.bytes, source_of(v.origin).c_str());
  }
}

void remember_write(const Visit& v, Cell& c) {
  c.write_epoch = v.clock.epoch;
  c.write_warp_epoch = v.warp_epoch();
  c.writer = std::uint16_t(v.thread.linear);
  c.atomic_write = v.access == Access::kAtomic;
  c.initialised = true;
  c.copying = false;
}

void remember_read(const Visit& v, Cell& c) {
  if (in_this_launch_before_this_block(v.clock, c.read_epoch)) c.other_block_epoch = c.read_epoch;
  const bool now = c.read_epoch == v.clock.epoch, same_warp = c.reader / kWarpSize == v.thread.warp;
  if (now && same_warp && c.read_warp_epoch == v.warp_epoch()) {
    c.several_lanes |= c.reader != v.thread.linear;
    return;
  }
  if (now && !same_warp) {
    c.other_warp_epoch = c.read_epoch;
    c.other_warp = std::uint16_t(c.reader / kWarpSize);
  }
  c.read_epoch = v.clock.epoch;
  c.read_warp_epoch = v.warp_epoch();
  c.reader = std::uint16_t(v.thread.linear);
  c.several_lanes = false;
}

// Constants and literals of the program may be read.
bool in_program_image(const void* p) {
  Dl_info info;
  return dladdr(p, &info) != 0;
}

// The thread's own stack, the kernel's arguments and the built-in variables.
bool is_private(const Thread& thread, const char* p) {
  const Machine& m = machine();
  const auto* self = reinterpret_cast<const char*>(&thread);
  return thread.fiber.owns(p) || (p >= m.arguments && p < m.arguments + m.argument_bytes) ||
         (p >= self && p < self + sizeof(Thread)) || p == reinterpret_cast<const char*>(&here);
}

}  // namespace

Range& add_range(const void* data, std::size_t bytes, bool shared) {
  auto* begin = static_cast<char*>(const_cast<void*>(data));
  auto range = std::make_unique<Range>(Range{begin, bytes, shared, {}});
  range->cells.resize((bytes + kCellBytes - 1) / kCellBytes + 1);
  latest = nullptr;
  return *(ranges[begin] = std::move(range));
}

void remove_range(const void* data) {
  latest = nullptr;
  ranges.erase(static_cast<const char*>(data));
}

Range* find_range(const void* p) {
  const char* c = static_cast<const char*>(p);
  if (latest != nullptr && c >= latest->begin && c < latest->begin + latest->bytes) return latest;
  // What begins at or before p, and what begins after it; the nearer of the two, if it is near.
  const auto before = ranges.lower_bound(c);
  Range* low = before == ranges.end() ? nullptr : before->second.get();
  Range* high = before == ranges.begin() ? nullptr : std::prev(before)->second.get();
  if (low != nullptr && c < low->begin + low->bytes) return latest = low;
  if (low != nullptr && !low->near(c)) low = nullptr;
  if (high != nullptr && !high->near(c)) high = nullptr;
  if (low == nullptr || high == nullptr) return low == nullptr ? high : low;
  return c - (low->begin + low->bytes) <= high->begin - c ? low : high;
}

void renew_cells(Range& range, std::size_t offset, std::size_t bytes, bool initialised) {
  Cell fresh;
  fresh.exists = true;
  fresh.initialised = initialised;
  for (std::size_t i = offset / kCellBytes; i * kCellBytes < offset + bytes; ++i) {
    range.cells[i] = fresh;
  }
}

KnownMemory::KnownMemory(const void* data, std::size_t bytes, bool initialised) : data_(data) {
  renew_cells(add_range(data, bytes, false), 0, bytes, initialised);
}

KnownMemory::~KnownMemory() { remove_range(data_); }

void note_access(const void* p, std::size_t bytes, Access access, Origin origin) {
  if (here == nullptr) return;
  const Thread& thread = machine().current();
  const char* c = static_cast<const char*>(p);
  if (is_private(thread, c)) return;
  ++counts().accesses;
  Range* range = find_range(p);
  if (range == nullptr) {
    if (in_program_image(p) || !first_at("out of bounds", origin)) return;
    return report("out of bounds", "%s of %zu bytes at an address that nobody made known (%s)",
                  name_of(access), bytes, source_of(origin).c_str());
  }
  const std::ptrdiff_t offset = c - range->begin;
  const char* space = range->shared ? "shared" : "global";
  if (offset < 0 || std::size_t(offset) + bytes > range->bytes) {
    if (!first_at("out of bounds", origin)) return;
    return report("out of bounds", "%s %s of %zu bytes at byte %td of a %zu-byte range (%s)", space,
                  name_of(access), bytes, offset, range->bytes, source_of(origin).c_str());
  }
  const Clock& clock = machine().clock;
  for (std::size_t at = std::size_t(offset) / kCellBytes * kCellBytes;
       at < std::size_t(offset) + bytes; at += kCellBytes) {
    Cell& cell = *range->cells_of(at);
    if (!cell.exists) {
      if (!first_at("out of bounds", origin)) return;
      return report("out of bounds", "%s %s of %zu bytes between the variables, at byte %zu (%s)",
                    space, name_of(access), bytes, at, source_of(origin).c_str());
    }
    const Visit visit{*range, at, access, thread, clock, origin};
    check_contents(visit, cell);
    if (config().races) check_race(visit, cell);
    visit.writes() ? remember_write(visit, cell) : remember_read(visit, cell);
  }
}

}  // namespace sslkern::simt
