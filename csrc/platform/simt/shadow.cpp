#include "platform/simt/shadow.h"

#include <dlfcn.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>

#include "platform/simt/machine.h"

namespace sslkern::simt {
namespace {

// By address, descending: the first that is not above p is the one that p lies in or behind.
std::multimap<std::uintptr_t, std::unique_ptr<Range>, std::greater<std::uintptr_t>> ranges;
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
  Range& range;
  std::size_t offset;  // of the first byte, in the range
  Access access;
  const Thread& thread;
  const Clock& clock;
  Origin origin;

  std::uint32_t warp_epoch() const { return clock.warp_epoch[thread.warp]; }
  bool reads() const { return access != Access::kWrite; }
  bool writes() const { return access != Access::kRead; }
  bool same_warp(unsigned other) const { return other / kWarpSize == thread.warp; }
  std::string what() const {
    const std::string byte = std::string(name_of(access)) + " of byte " + std::to_string(offset);
    return byte + (range.shared ? " of shared memory"
                                : " of a " + std::to_string(range.bytes) + "-byte range");
  }
};

// Who made an earlier access that nothing orders this one after.
struct Rival {
  bool exists = false, of_other_block = false;
  unsigned thread = 0;
};

bool of_earlier_block(const Clock& clock, std::uint32_t epoch) {
  return epoch >= clock.launch_start && epoch < clock.block_start;
}

Rival rival_in(const Visit& v, const Touch& t) {
  if (of_earlier_block(v.clock, t.epoch)) return {true, true, t.thread};
  if (t.epoch != v.clock.epoch || t.thread == v.thread.linear) return {};
  if (v.same_warp(t.thread) && t.warp_epoch != v.warp_epoch()) return {};
  return {true, false, t.thread};
}

Rival rival_in(const Visit& v, const Touches& t) {
  if (const Rival rival = rival_in(v, t.latest); rival.exists) return rival;
  const bool own = t.latest.epoch == v.clock.epoch && t.latest.thread == v.thread.linear;
  if (own && t.latest.warp_epoch == v.warp_epoch() && t.other_lane != t.latest.thread) {
    return {true, false, t.other_lane};
  }
  if (t.other_warp_epoch == v.clock.epoch && !v.same_warp(t.other_warp_thread)) {
    return {true, false, t.other_warp_thread};
  }
  return {of_earlier_block(v.clock, t.earlier_block_epoch), true, 0};
}

bool is_race(const Visit& v, const char* earlier, const Rival& rival) {
  if (!rival.exists) return false;
  const std::string whose =
      rival.of_other_block ? "of another block" : "by thread " + std::to_string(rival.thread);
  report_at("race", v.origin, "%s and an earlier %s %s", v.what().c_str(), earlier, whose.c_str());
  return true;
}

void check_race(const Visit& v, const Cell& c) {
  if (is_race(v, "write", rival_in(v, c.write))) return;
  if (v.access != Access::kAtomic && !v.range.atomics.empty()) {
    if (is_race(v, "atomic", rival_in(v, v.range.atomics_of(v.offset)))) return;
  }
  if (v.writes()) is_race(v, "read", rival_in(v, c.reads));
}

void check_contents(const Visit& v, Cell& c) {
  if (c.copying) {
    const char* kind = v.reads() ? "early read" : "race";
    report_at(kind, v.origin, "%s, while cp.async is copying to it", v.what().c_str());
  } else if (v.reads() && !c.initialised && config().uninitialised && every_access_is_seen) {
    c.initialised = true;
    report_at("uninitialised", v.origin, "%s", v.what().c_str());
  }
}

Touch touch_of(const Visit& v) {
  return {v.clock.epoch, v.warp_epoch(), std::uint16_t(v.thread.linear)};
}

void remember(const Visit& v, Touches& t) {
  const Touch before = t.latest;
  t.latest = touch_of(v);
  if (of_earlier_block(v.clock, before.epoch)) t.earlier_block_epoch = before.epoch;
  const bool now = before.epoch == v.clock.epoch;
  if (now && v.same_warp(before.thread) && before.warp_epoch == v.warp_epoch()) {
    if (before.thread != t.latest.thread) t.other_lane = before.thread;
    return;
  }
  t.other_lane = t.latest.thread;
  if (now && !v.same_warp(before.thread)) {
    t.other_warp_epoch = before.epoch;
    t.other_warp_thread = before.thread;
  }
}

void remember(const Visit& v, Cell& c) {
  if (v.access == Access::kRead) return remember(v, c.reads);
  if (v.access == Access::kAtomic) remember(v, v.range.atomics_of(v.offset));
  if (v.access == Access::kWrite) c.write = touch_of(v);
  c.initialised = true;
  c.copying = false;
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

// How far p is from a range; 0 inside.
std::size_t distance(const Range& range, std::uintptr_t p) {
  if (p < range.start()) return range.start() - p;
  return p < range.end() ? 0 : p - range.end() + 1;
}

[[noreturn]] void stop_out_of_bounds(const Range* range, const void* p, std::size_t bytes,
                                     Access access, Origin origin) {
  const char* what = name_of(access);
  if (range == nullptr) {
    report_at("out of bounds", origin, "%s of %zu bytes at an address that nobody made known", what,
              bytes);
  } else if (range->shared) {
    report_at("out of bounds", origin, "%s of %zu bytes outside of shared memory", what, bytes);
  } else {
    report_at("out of bounds", origin, "%s of %zu bytes at byte %td of a %zu-byte range", what,
              bytes, static_cast<const char*>(p) - range->begin, range->bytes);
  }
  machine().stop();
}

void fill_cells(Range& range, std::size_t offset, std::size_t bytes, const Cell& cell) {
  const std::size_t first = offset / kCellBytes,
                    behind = (offset + bytes + kCellBytes - 1) / kCellBytes;
  std::fill(range.cells.begin() + first, range.cells.begin() + behind, cell);
  if (range.atomics.empty()) return;
  std::fill(range.atomics.begin() + first, range.atomics.begin() + behind, Touches{});
}

}  // namespace

Range& add_range(const void* data, std::size_t bytes, bool shared) {
  auto* begin = static_cast<char*>(const_cast<void*>(data));
  auto range = std::make_unique<Range>(Range{begin, bytes, shared, {}, {}});
  range->cells.resize((bytes + kCellBytes - 1) / kCellBytes + 1);
  latest = nullptr;
  return *ranges.emplace(range->start(), std::move(range))->second;
}

void remove_range(const Range& range) {
  latest = nullptr;
  const auto [first, last] = ranges.equal_range(range.start());
  for (auto i = first; i != last; ++i) {
    if (i->second.get() == &range) return void(ranges.erase(i));
  }
}

Range* find_range(const void* pointer) {
  const auto p = reinterpret_cast<std::uintptr_t>(pointer);
  if (latest != nullptr && distance(*latest, p) == 0) return latest;
  // What begins at or before p, and what begins after it; the nearer of the two, if it is near.
  const auto before = ranges.lower_bound(p);
  Range* nearest = nullptr;
  if (before != ranges.end()) nearest = before->second.get();
  if (before != ranges.begin()) {
    Range* after = std::prev(before)->second.get();
    if (nearest == nullptr || distance(*after, p) < distance(*nearest, p)) nearest = after;
  }
  if (nearest == nullptr || distance(*nearest, p) > kGuardBytes) return nullptr;
  return latest = nearest;
}

void renew_cells(Range& range, std::size_t offset, std::size_t bytes, bool initialised) {
  Cell fresh;
  fresh.exists = true;
  fresh.initialised = initialised;
  fill_cells(range, offset, bytes, fresh);
}

void forget_cells(Range& range, std::size_t offset, std::size_t bytes) {
  fill_cells(range, offset, bytes, Cell{});
}

KnownMemory::KnownMemory(const void* data, std::size_t bytes, bool initialised)
    : range_(&add_range(data, bytes, false)) {
  renew_cells(*range_, 0, bytes, initialised);
}

KnownMemory::~KnownMemory() { remove_range(*range_); }

void note_access(const void* p, std::size_t bytes, Access access, Origin origin) {
  if (here == nullptr) return;
  const Thread& thread = machine().current();
  const char* c = static_cast<const char*>(p);
  if (is_private(thread, c)) return;
  ++counts().accesses;
  Range* range = find_range(p);
  if (range == nullptr && access == Access::kRead && in_program_image(p)) return;
  if (range == nullptr) stop_out_of_bounds(range, p, bytes, access, origin);
  const std::ptrdiff_t offset = c - range->begin;
  if (offset < 0 || std::size_t(offset) + bytes > range->bytes) {
    stop_out_of_bounds(range, p, bytes, access, origin);
  }
  const Clock& clock = machine().clock;
  for (std::size_t at = std::size_t(offset) / kCellBytes * kCellBytes;
       at < std::size_t(offset) + bytes; at += kCellBytes) {
    Cell& cell = *range->cells_of(at);
    const Visit visit{*range, at, access, thread, clock, origin};
    if (!cell.exists) {
      return report_at("out of bounds", origin, "%s, which is of no variable",
                       visit.what().c_str());
    }
    check_contents(visit, cell);
    if (config().races) check_race(visit, cell);
    remember(visit, cell);
  }
}

}  // namespace sslkern::simt
