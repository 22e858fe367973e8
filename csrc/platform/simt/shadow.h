// What is known of every piece of memory: whether it exists, was written, is being copied to, and
// who last touched it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sslkern::simt {

constexpr std::size_t kGuardBytes = 4096;
constexpr std::size_t kCellBytes = 2;  // the smallest element of a kernel

struct Cell {
  // Times are epochs of the block and of the warp: see Clock.
  std::uint32_t write_epoch = 0, write_warp_epoch = 0;
  std::uint32_t read_epoch = 0, read_warp_epoch = 0;  // of the latest reader
  std::uint32_t other_warp_epoch = 0;                 // of the latest reader of another warp
  std::uint32_t other_block_epoch = 0;                // of a reader of an earlier block
  std::uint16_t writer = 0, reader = 0, other_warp = 0;
  bool exists = false, initialised = false, copying = false;
  bool atomic_write = false, several_lanes = false;
};

struct Range {
  char* begin;
  std::size_t bytes;
  bool shared;
  std::vector<Cell> cells;

  Cell* cells_of(std::size_t offset) { return cells.data() + offset / kCellBytes; }
  bool near(const char* p) const {
    return p >= begin - kGuardBytes && p < begin + bytes + kGuardBytes;
  }
};

Range& add_range(const void* data, std::size_t bytes, bool shared);
void remove_range(const void* data);
// The range that p lies in, or next to; null for a wild one.
Range* find_range(const void* p);

// Fresh cells of a part of a range.
void renew_cells(Range& range, std::size_t offset, std::size_t bytes, bool initialised);

}  // namespace sslkern::simt
