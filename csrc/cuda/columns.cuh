// How losses over columns of a batch read it: see contract/gram.h. A block has 32 columns, a lane
// for each, so that a warp reads parts of rows; its warps take the rows in turn. What belongs to a
// column stays in registers, and sums over rows need neither shuffles nor atomics.
#pragma once
#include "contract/gram.h"
#include "cuda/block.cuh"
#include "cuda/dtype.cuh"

namespace sslkern::cuda {

constexpr int kColumns = 32, kColumnWarps = 8, kColumnThreads = kColumns * kColumnWarps;
// Loads of a thread that are on their way together.
constexpr int kRowsAtOnce = 4;
// Rows of a block that only reads and writes elements.
constexpr std::int64_t kElementRows = 2 * kRowsAtOnce * kColumnWarps;

// Column and rows of a thread: row, row + kColumnWarps, ... of block (part, 32 columns).
struct Column {
  std::int64_t index, part, row, end;
  bool exists;

  static SSLKERN_DEVICE Column here(std::int64_t N, std::int64_t D, std::int64_t rows_of_part) {
    const std::int64_t groups = (D + kColumns - 1) / kColumns;
    const std::int64_t part = blockIdx.x / groups, begin = part * rows_of_part;
    const std::int64_t index = (blockIdx.x - part * groups) * kColumns + threadIdx.x % kColumns;
    const bool exists = index < D;
    const std::int64_t end = min(N, begin + rows_of_part);
    return {exists ? index : D - 1, part, begin + threadIdx.x / kColumns, exists ? end : 0, exists};
  }
};

// The next kRowsAtOnce rows of a thread, zeros behind the last.
template <class T, class E>
SSLKERN_DEVICE void load_rows(T (&to)[kRowsAtOnce], const E* column, std::int64_t stride,
                              std::int64_t row, std::int64_t end) {
#pragma unroll
  for (int k = 0; k < kRowsAtOnce; ++k) {
    const std::int64_t i = row + k * kColumnWarps;
    to[k] = i < end ? T(to_working(column[i * stride])) : T(0);
  }
}

template <class E>
SSLKERN_DEVICE const E* column_of(const void* z, std::int64_t index) {
  return static_cast<const E*>(z) + index;
}

// Shift and scale of one column, in registers.
struct Standardized {
  double mean, scale;

  static SSLKERN_DEVICE Standardized of(const ColumnView& view, std::int64_t column) {
    return {view.mean[column], view.scale[column]};
  }
  SSLKERN_DEVICE double operator()(double z) const { return (z - mean) * scale; }
};

// Calls f(first row) for the rows of a thread, kRowsAtOnce at a time.
template <class F>
SSLKERN_DEVICE void for_row_groups(const Column& at, const F& f) {
  for (std::int64_t row = at.row; row < at.end; row += kRowsAtOnce * kColumnWarps) f(row);
}
// Calls f(row, its number among those at once).
template <class F>
SSLKERN_DEVICE void for_rows_of_group(std::int64_t row, std::int64_t end, const F& f) {
#pragma unroll
  for (int k = 0; k < kRowsAtOnce; ++k) {
    if (row + k * kColumnWarps < end) f(row + k * kColumnWarps, k);
  }
}

}  // namespace sslkern::cuda
