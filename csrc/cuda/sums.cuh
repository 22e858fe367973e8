// Sums over the rows and over the columns of tiles, from what each lane has added up of its own.
#pragma once
#include "cuda/block.cuh"
#include "cuda/tile.cuh"

namespace sslkern::cuda {

// Of the block's rows: calls store(row of the tile, sum) for each, once its tiles in `shared` are
// no longer needed; `shared` then holds kWarpsAcross x kSide values. To be called by the whole
// block.
template <class P, class V, class Store>
SSLKERN_DEVICE void store_row_sums(const V (&v)[P::kM][2], V* shared, const Place<P>& at,
                                   const Store& store) {
  __syncthreads();
  const int warp_column = at.column / P::kWarpColumns;
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      V total = v[m][h];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      if (at.t == 0) shared[warp_column * P::kSide + at.row_of(m, h)] = total;
    }
  }
  __syncthreads();
  for (int row = int(threadIdx.x); row < P::kSide; row += P::kThreads) {
    V total = 0;
#pragma unroll
    for (int w = 0; w < P::kWarpsAcross; ++w) total += shared[w * P::kSide + row];
    store(row, total);
  }
}

template <class P>
constexpr int kLaneColumns = 2 * P::kN;

// One value for each column of a lane: that of [j][i] is number 2 j + i.
template <class P>
using LaneColumns = typename P::Working[kLaneColumns<P>];

// The column, within the tile of the block, whose sum a lane gets; lanes for which
// `at.g >= kLaneColumns<P>` have those of other lanes once more.
template <class P>
SSLKERN_DEVICE int own_column(const Place<P>& at) {
  const int q = at.g % kLaneColumns<P>;
  return at.column_of(q / 2, q % 2);
}

// Sums over the rows of a warp; returns that of own_column. Lanes send away the half of the columns
// that they do not keep, so eight columns take 7 shuffles and not 24. Spoils v.
template <class P>
SSLKERN_DEVICE typename P::Working column_sum(LaneColumns<P>& v, const Place<P>& at) {
  using T = typename P::Working;
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) {
    if (distance >= kLaneColumns<P>) {
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        v[q] += __shfl_xor_sync(kAllLanes, v[q], 4 * distance);
      }
    } else {
      const bool upper = (at.g & distance) != 0;
#pragma unroll
      for (int q = 0; q < distance; ++q) {
        const T kept = upper ? v[q + distance] : v[q], sent = upper ? v[q] : v[q + distance];
        v[q] = kept + __shfl_xor_sync(kAllLanes, sent, 4 * distance);
      }
    }
  }
  return v[0];
}

// Writes two numbers of own_column; `pairs` is that of the first column of the block's tile.
template <class P, class V>
SSLKERN_DEVICE void store_column_pair(V* pairs, V first, V second, const Place<P>& at) {
  if (at.g >= kLaneColumns<P>) return;
  store_pair(pairs, own_column(at), first, second);
}

}  // namespace sslkern::cuda
