// What is known of every piece of memory: whether it exists, was written, is being copied to, and
// who last touched it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sslkern::simt {

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kCellBytes = 2;  // the smallest element of a kernel

// Small, for that is what a launch's time goes into: memory that no cache holds.
#pragma pack(push, 2)

// An access. Times are epochs of the block and of the warp: see Clock.
struct Touch {
  std::uint32_t epoch = 0, warp_epoch = 0;
  std::uint16_t thread = 0;
};

// Accesses that need no order among themselves: of them, as many as a later one of another sort
// could race with.
struct Touches {
  Touch latest;
  std::uint32_t other_warp_epoch = 0;     // of the latest one of another warp
  std::uint32_t earlier_block_epoch = 0;  // of one of an earlier block
  std::uint16_t other_warp_thread = 0;
  std::uint16_t other_lane = 0;  // with the latest's warp and epochs; latest.thread if none
};

struct Cell {
  Touch write;  // one is enough: two that nothing orders are a race at once
  Touches reads;
  bool exists = false, initialised = false, copying = false;
};

#pragma pack(pop)

struct Range {
  char* begin;
  std::size_t bytes;
  bool shared;
  std::vector<Cell> cells;
  std::vector<Touches> atomics;  // of each cell, from the first atomic on

  Cell* cells_of(std::size_t offset) { return cells.data() + offset / kCellBytes; }
  Touches& atomics_of(std::size_t offset) {
    atomics.resize(cells.size());
    return atomics[offset / kCellBytes];
  }
  // As numbers: an empty range may begin at null.
  std::uintptr_t start() const { return reinterpret_cast<std::uintptr_t>(begin); }
  std::uintptr_t end() const { return start() + bytes; }
};

Range& add_range(const void* data, std::size_t bytes, bool shared);
void remove_range(const Range& range);
// The range that p lies in, or next to; null for a wild one.
Range* find_range(const void* p);

// Fresh cells of a part of a range: of memory, or of what is behind it.
void renew_cells(Range& range, std::size_t offset, std::size_t bytes, bool initialised);
void forget_cells(Range& range, std::size_t offset, std::size_t bytes);

}  // namespace sslkern::simt
