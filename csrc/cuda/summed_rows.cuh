// Sums over rows whose terms come tile by tile.
#pragma once
#include "cuda/block.cuh"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// `count` sums of each row, over the columns that a warp has seen. The state is in shared memory, a
// value per row and warp across, which the first of the four lanes that share a row keeps.
template <class P>
struct SummedRows {
  using T = typename P::Working;
  static constexpr int kValues = P::kWarpsAcross * P::kSide;
  static constexpr std::int64_t kBytes = kValues * sizeof(T);  // of one sum

  T* state;
  int count;
  const Place<P>& at;

  // To be called by the whole block, which must meet a barrier before it adds.
  SSLKERN_DEVICE void clear() const {
    for (int n = int(threadIdx.x); n < count * kValues; n += P::kThreads) state[n] = 0;
  }
  // Adds the lanes' terms of row (m, h) to sum k. To be called by whole warps.
  SSLKERN_DEVICE void add(int k, int m, int h, T x) const {
    x += __shfl_xor_sync(kAllLanes, x, 1);
    x += __shfl_xor_sync(kAllLanes, x, 2);
    const int warp_column = at.column / P::kWarpColumns;
    if (at.t == 0) state[k * kValues + warp_column * P::kSide + at.row_of(m, h)] += x;
  }
  // Writes the sums of the block's rows to `to`, those of one kind adjacent and kinds `pitch`
  // apart. To be called by the whole block.
  SSLKERN_DEVICE void write(T* to, std::int64_t pitch) const {
    __syncthreads();  // all has been added
    for (int n = int(threadIdx.x); n < count * P::kSide; n += P::kThreads) {
      const int k = n / P::kSide, row = n % P::kSide;
      T total = 0;
#pragma unroll
      for (int w = 0; w < P::kWarpsAcross; ++w) total += state[k * kValues + w * P::kSide + row];
      to[k * pitch + row] = total;
    }
  }
};

}  // namespace sslkern::cuda
