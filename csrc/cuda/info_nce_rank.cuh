// The kernels that place targets among the logits of their rows; see contract/info_nce.h.
#pragma once
#include "contract/info_nce.h"
#include "cuda/key_tile.cuh"
#include "cuda/sums.cuh"

namespace sslkern::cuda {

// The part of a walk outside of which no row of the block has its target. Every warp finds it by
// itself.
template <class P>
SSLKERN_DEVICE void keep_targets(Walk& walk, const InfoNcePacked& in, int first_row) {
  const int tiles = int(in.key.padded_N() / P::kSide);
  int first = tiles, last = -1;
  for (int row = int(threadIdx.x) % 32; row < P::kSide; row += 32) {
    const std::int64_t i = first_row + row, j = i < in.query.N ? in.target[i] : -1;
    if (!is_column(j, in.key)) continue;
    first = min(first, int(j / P::kSide));
    last = max(last, int(j / P::kSide));
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    first = min(first, __shfl_xor_sync(kAllLanes, first, distance));
    last = max(last, __shfl_xor_sync(kAllLanes, last, distance));
  }
  walk.begin = max(walk.begin, first);
  walk.end = min(walk.end, last + 1);
}

// Grid (tiles of queries, splits), block P::kThreads, dynamic shared memory of shared_need. The
// logits of the targets, from the same products as all others: equal keys have equal logits. With
// targets on the diagonal one tile for each tile of queries, at worst all of them.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads, 1) info_nce_limits_kernel(InfoNceCounts p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(blockIdx.x) * P::kSide;
  Walk walk = walk_of<P>(p.in.query, 0, p.in.key, p.splits);
  keep_targets<P>(walk, p.in, first_row);
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int index) {
    const KeyTile<P> tile{p.in, first_row, index * P::kSide, at};
    if (!tile.has_target()) return;
    tile.score(c);
    const Counting<P, false> counting(tile);
#pragma unroll
    for (int q = 0; q < 2 * P::kM; ++q) {
      const auto row = counting.of_row(at.row_of(q / 2, q % 2));
#pragma unroll
      for (int n = 0; n < 2 * P::kN; ++n) {
        if (!counting.is_target(row, n)) continue;
        static_cast<T*>(p.limit)[row.index] = c[q / 2][n / 2][2 * (q % 2) + n % 2];
      }
    }
  });
}

// What a row's logits are compared with: a target that is no column is beaten by all.
template <class T>
SSLKERN_DEVICE T limit_of(const InfoNceCounts& p, std::int64_t i) {
  if (i >= p.in.query.N) return T(NAN);
  if (p.threshold != nullptr) return T(p.threshold[i] * kLog2E);
  return is_column(p.in.target[i], p.in.key) ? static_cast<const T*>(p.limit)[i] : T(NAN);
}

// Grid and block likewise. Per element of S: D multiply-adds, a few operations; a number per row
// and split is written.
template <class P, bool kResident, bool kIds>
__global__ void __launch_bounds__(P::kThreads, 1) info_nce_rank_kernel(InfoNceCounts p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(blockIdx.x) * P::kSide;
  const Walk walk = walk_of<P>(p.in.query, 0, p.in.key, p.splits);
  int larger[P::kM][2];
#pragma unroll
  for (int q = 0; q < 2 * P::kM; ++q) larger[q / 2][q % 2] = 0;
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int index) {
    const KeyTile<P> tile{p.in, first_row, index * P::kSide, at};
    tile.score(c);
    const Counting<P, kIds> counting(tile);
#pragma unroll
    for (int q = 0; q < 2 * P::kM; ++q) {
      const auto row = counting.of_row(at.row_of(q / 2, q % 2));
      const T limit = limit_of<T>(p, row.index);
#pragma unroll
      for (int n = 0; n < 2 * P::kN; ++n) {
        const bool beaten = !(c[q / 2][n / 2][2 * (q % 2) + n % 2] <= limit);
        if (beaten && counting.counts(row, n)) larger[q / 2][q % 2] += 1;
      }
    }
  });
  std::int32_t* const to = p.larger + blockIdx.y * p.in.query.padded_N() + first_row;
  store_row_sums<P>(larger, reinterpret_cast<int*>(shared), at,
                    [&](int row, int total) { to[row] = total; });
}

}  // namespace sslkern::cuda
