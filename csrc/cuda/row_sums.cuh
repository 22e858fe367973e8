// Sums over the rows of a block of tiles.
#pragma once
#include "cuda/block.cuh"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Of the rows of a lane's results, each over the columns that the lane has seen, and at last over
// all. In float64, since rows may be long; in shared memory, where lanes find their own without
// bank conflicts, since beside a tile there are no registers for them.
template <class P>
struct RowSums {
  static constexpr int kRows = 2 * P::kM;
  static constexpr std::int64_t kBytes = kRows * P::kThreads * sizeof(double);

  double* state;  // kBytes of shared memory
  const Place<P>& at;

  SSLKERN_DEVICE double& of(int q) const { return state[q * P::kThreads + int(threadIdx.x)]; }

  SSLKERN_DEVICE void clear() const {
#pragma unroll
    for (int q = 0; q < kRows; ++q) of(q) = 0;
  }

  // Along the rows of a tile, in the order of for_each_row.
  struct Cursor {
    double* next;
    SSLKERN_DEVICE void add(double x) {
      *next += x;
      next += P::kThreads;
    }
  };
  SSLKERN_DEVICE Cursor cursor() const { return {&of(0)}; }

  // Writes those of the block's rows to `to`. `shared` holds kWarpsAcross x kSide of them, apart
  // from the state, and is free again after the block's next barrier. To be called by the whole
  // block.
  SSLKERN_DEVICE void write(double* to, double* shared) const {
    __syncthreads();  // what was in `shared` has been read by all
    const int warp_column = at.column / P::kWarpColumns;
#pragma unroll
    for (int q = 0; q < kRows; ++q) {
      double sum = of(q);
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      if (at.t == 0) shared[warp_column * P::kSide + at.row_of(q / 2, q % 2)] = sum;
    }
    __syncthreads();
    for (int row = int(threadIdx.x); row < P::kSide; row += P::kThreads) {
      double sum = 0;
#pragma unroll
      for (int w = 0; w < P::kWarpsAcross; ++w) sum += shared[w * P::kSide + row];
      to[row] = sum;
    }
  }
};

}  // namespace sslkern::cuda
