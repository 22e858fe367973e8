// Sums over the rows of a block of tiles.
#pragma once
#include "cuda/block.cuh"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Of the rows of a warp's results over the columns that it has seen, and at last over all. In
// float64, since rows may be long; in shared memory, since beside a tile there are no registers for
// them. Lanes t = 0 have those of their rows, so that a block needs 4 KiB, and no two of its lanes
// the same.
template <class P>
struct RowSums {
  using T = typename P::Working;
  static constexpr int kRows = 2 * P::kM, kLanes = P::kThreads / 4;
  static constexpr std::int64_t kBytes = kRows * kLanes * sizeof(double);

  double* state;  // kBytes of shared memory
  const Place<P>& at;

  static SSLKERN_DEVICE int place(int warp, int g) { return 8 * warp + g; }

  // Along the rows of a tile, in the order of for_each_row. To be called by whole warps.
  struct Cursor {
    double* next;
    bool owns;

    SSLKERN_DEVICE void add(T x) {
      x += __shfl_xor_sync(kAllLanes, x, 1);
      x += __shfl_xor_sync(kAllLanes, x, 2);
      if (owns) *next += double(x);
      next += kLanes;
    }
  };
  SSLKERN_DEVICE Cursor cursor() const {
    return {state + place(int(threadIdx.x) / 32, at.g), at.t == 0};
  }

  SSLKERN_DEVICE void clear() const {
    const Cursor own = cursor();
    for (int q = 0; own.owns && q < kRows; ++q) own.next[q * kLanes] = 0;
  }

  // Writes those of the block's rows to `to`. To be called by the whole block.
  SSLKERN_DEVICE void write(double* to) const {
    __syncthreads();
    for (int row = int(threadIdx.x); row < P::kSide; row += P::kThreads) {
      const int down = row / P::kWarpRows, in_warp = row % P::kWarpRows;
      const double* own = state + in_warp / 8 * kLanes + place(down * P::kWarpsAcross, in_warp % 8);
      double sum = 0;
#pragma unroll
      for (int w = 0; w < P::kWarpsAcross; ++w) sum += own[place(w, 0)];
      to[row] = sum;
    }
  }
};

}  // namespace sslkern::cuda
