// The forward kernels of contrast by label; see contract/supcon.h for the formulas and letters.
//
// Two walks: one for the negatives, which leaves out tiles of positives alone, and one for the
// positives, which sees no other tiles than those that hold some. Tiles on the border of a class,
// two or three beside each tile of rows, are computed twice; in return the first walk, which is
// nearly all of the work, keeps no more state than NT-Xent does, and the second one knows the sums
// over the negatives when it comes to the terms of pairs.
#pragma once
#include "cuda/online.cuh"
#include "cuda/self_similarity.cuh"
#include "cuda/summed_rows.cuh"
#include "cuda/supcon_classes.cuh"

namespace sslkern::cuda {

// Scores of a tile, x_ij = s_ij log2(e).
template <class P>
SSLKERN_DEVICE void scores_of(Results<P>& c, const SupconRows& in, const ClassTile<P>& tile,
                              typename P::Working scale, const Place<P>& at) {
  ColumnValues<P> factor;
  load_columns<P>(factor, in.z.factor, tile.column, at);
  multiply_columns<P>(factor, scale);
  scale_results<P>(c, in.z.factor, tile.row, factor, at);
}

// ---- negatives

// The tiles of negatives that the block walks along, those before the class of its rows (part 0) or
// those behind it. Found anew for each part: kept beside a tile, it is too many registers.
template <class P>
SSLKERN_DEVICE void set_negative_part(Walk& walk, const SupconNegatives& p, int first_row,
                                      int part) {
  const ClassTiles classes = class_tiles(p.in, first_row, P::kSide);
  const int left_out = classes.whole_end - classes.whole_begin;
  const std::int64_t tiles = p.in.z.padded_N() / P::kSide - left_out, split = blockIdx.y;
  const int begin = int(tiles * split / p.splits), end = int(tiles * (split + 1) / p.splits);
  walk.begin = part == 0 ? begin : max(begin, classes.whole_begin) + left_out;
  walk.end = part == 0 ? min(end, classes.whole_begin) : end + left_out;
}

// Grid (tiles of rows, splits), block P::kThreads, dynamic shared memory of shared_need with
// OnlineRows besides. A block owns the rows of its tile and walks along its share of the columns,
// before and behind the tiles that its rows' class fills; a lane keeps the largest score and the
// sum of powers of the negatives it has seen. Per element of S: D multiply-adds, one exponential,
// four operations. No element of S is written.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads, kResident ? P::kMinBlocks : 1)
    supcon_negatives_kernel(SupconNegatives p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(blockIdx.x) * P::kSide;
  const T scale = T(kLog2E / positive_or_nan(*p.in.temperature));
  Walk walk = walk_of<P>(p.in.z, 0, p.in.z, p.splits);
  const OnlineRows<P> online{reinterpret_cast<T*>(behind_tiles<P, kResident>(shared, walk)), at};
  online.clear();
#pragma unroll 1  // one copy of the walk
  for (int part = 0; part < 2; ++part) {
    set_negative_part<P>(walk, p, first_row, part);
    for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int number) {
      const ClassTile<P> tile{first_row, number * P::kSide, int(p.in.z.N), p.in.end};
      scores_of<P>(c, p.in, tile, scale, at);
      if (!tile.is_negative()) {
        ColumnEnds<P> ends;
        load_ends<P>(ends, tile, at);
        for_each_result<P>(c, [&](T& x, int m, int h, int j, int i) {
          const bool alike = ends[j][i] == tile.end_of_row(at.row_of(m, h));
          if (alike || ends[j][i] == kNoClass) x = -INFINITY;
        });
      }
      online.add(c);
    });
    __syncthreads();  // the last tile has been read by all
  }
  T* partial = static_cast<T*>(p.partial) + 2 * (blockIdx.y * p.in.z.padded_N() + first_row);
  online.write(partial, reinterpret_cast<T*>(shared));
}

// A thread per place: merges the splits.
template <class T>
__global__ void __launch_bounds__(256, 2) supcon_merge_negatives_kernel(SupconNegatives p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x, padded = p.in.z.padded_N();
  if (i >= padded) return;
  const bool exists = i < p.in.z.N;
  const double lse = exists ? merged_lse(static_cast<const T*>(p.partial), i, padded, p.splits) : 0;
  if (exists) p.lse_negative[p.in.order[i]] = lse * kLn2;
  if (!p.in.pairs) return;
  const T high = T(lse);
  static_cast<T*>(p.high)[i] = high;
  static_cast<T*>(p.low)[i] = lse == -INFINITY ? T(0) : T(lse - double(high));
}

// ---- pairs

SSLKERN_DEVICE float quotient(float a, float b) { return __fdividef(a, b); }
SSLKERN_DEVICE double quotient(double a, double b) { return a / b; }
SSLKERN_DEVICE float log2_1p(float x) { return log1pf(x) * float(kLog2E); }
SSLKERN_DEVICE double log2_1p(double x) { return log1p(x) * kLog2E; }

// sigmoid(lse - s), of lse in two parts, all in base 2: exactly 0 for a sum over nothing, and NaN
// stays NaN.
template <class T>
SSLKERN_DEVICE T pair_sigmoid(T x, T high, T low) {
  const T d = (high - x) + low, small = power_of_two(-(d < 0 ? -d : d));
  return quotient(d < 0 ? small : T(1), T(1) + small);
}

// log2(1 + 2^(lse - s)), which keeps the digits of small terms.
template <class T>
SSLKERN_DEVICE T pair_softplus(T x, T high, T low) {
  const T d = (high - x) + low;
  return (d < 0 ? T(0) : d) + log2_1p(power_of_two(-(d < 0 ? -d : d)));
}

// ---- positives

// Adds what rows sum over the positives of a tile to `sums`, and leaves -infinity where none is.
template <class P>
SSLKERN_DEVICE void add_positives(Results<P>& c, const SupconPositives& p, const ClassTile<P>& tile,
                                  const SummedRows<P>& sums, const Place<P>& at) {
  using T = typename P::Working;
  ColumnEnds<P> ends;
  load_ends<P>(ends, tile, at);
#pragma unroll
  for (int k = 0; k < 2 * P::kM; ++k) {
    const int m = k / 2, h = k % 2, row = tile.row + at.row_of(m, h);
    const int end = tile.end_of_row(at.row_of(m, h));
    const auto is_positive = [&](int q) {
      return ends[q / 2][q % 2] == end && row != tile.column + at.column_of(q / 2, q % 2);
    };
    if (p.in.pairs) {
      const T high = static_cast<const T*>(p.high)[row], low = static_cast<const T*>(p.low)[row];
      T loss = 0, weight = 0;
#pragma unroll
      for (int q = 0; q < 2 * P::kN; ++q) {
        const T x = c[m][q / 2][2 * h + q % 2];
        loss += is_positive(q) ? pair_softplus(x, high, low) : T(0);
        weight += is_positive(q) ? pair_sigmoid(x, high, low) : T(0);
      }
      sums.add(1, m, h, loss);
      sums.add(2, m, h, weight);
    }
    T logit = 0;
#pragma unroll
    for (int q = 0; q < 2 * P::kN; ++q) {
      T& x = c[m][q / 2][2 * h + q % 2];
      logit += is_positive(q) ? x : T(0);
      x = is_positive(q) ? x : T(-INFINITY);
    }
    sums.add(0, m, h, logit);
  }
}

// Grid (tiles of rows, splits), block P::kThreads, dynamic shared memory of shared_need with
// OnlineRows and SummedRows besides. As many splits as tiles with positives have work, a share of
// these tiles each. Per element of these: D multiply-adds, one exponential, six operations; with
// pairs two more exponentials, a logarithm and a quotient.
template <class P, bool kResident>
__global__ void __launch_bounds__(P::kThreads, 1) supcon_positives_kernel(SupconPositives p) {
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(blockIdx.x) * P::kSide, split = int(blockIdx.y);
  const ClassTiles classes = class_tiles(p.in, first_row, P::kSide);
  const std::int64_t tiles = classes.end - classes.begin, splits = classes.splits(p.splits);
  if (split >= splits) return;  // the whole block
  const T scale = T(kLog2E / positive_or_nan(*p.in.temperature));
  Walk walk = walk_of<P>(p.in.z, 0, p.in.z, p.splits);
  walk.begin = classes.begin + int(tiles * split / splits);
  walk.end = classes.begin + int(tiles * (split + 1) / splits);
  T* const state = reinterpret_cast<T*>(behind_tiles<P, kResident>(shared, walk));
  const OnlineRows<P> online{state, at};
  const SummedRows<P> sums{state + OnlineRows<P>::kBytes / sizeof(T), supcon_sums(p.in.pairs), at};
  online.clear();
  sums.clear();  // the walk meets a barrier before its first tile is there
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int number) {
    const ClassTile<P> tile{first_row, number * P::kSide, int(p.in.z.N), p.in.end};
    scores_of<P>(c, p.in, tile, scale, at);
    add_positives<P>(c, p, tile, sums, at);
    online.add(c);
  });
  const std::int64_t padded = p.in.z.padded_N();
  T* partial = static_cast<T*>(p.partial) + 2 * (split * padded + first_row);
  online.write(partial, reinterpret_cast<T*>(shared));
  T* partial_sums = static_cast<T*>(p.sums) + split * sums.count * padded + first_row;
  sums.write(partial_sums, padded);
}

// A thread per place: merges the splits that had work.
template <class T>
__global__ void __launch_bounds__(256) supcon_merge_positives_kernel(SupconPositives p, int side) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x, padded = p.in.z.padded_N();
  if (i >= p.in.z.N) return;
  const int splits = class_tiles(p.in, int(i) / side * side, side).splits(p.splits);
  const int count = supcon_sums(p.in.pairs);
  double sums[3] = {0, 0, 0};
  for (int split = 0; split < splits; ++split) {
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k < count)
        sums[k] += double(static_cast<const T*>(p.sums)[(split * count + k) * padded + i]);
    }
  }
  const std::int64_t row = p.in.order[i];
  p.lse_positive[row] = merged_lse(static_cast<const T*>(p.partial), i, padded, splits) * kLn2;
  p.sum_positive[row] = sums[0] * kLn2;
  if (!p.in.pairs) return;
  p.pair_loss[row] = sums[1] * kLn2;
  p.pair_weight[row] = sums[2];
}

}  // namespace sslkern::cuda
