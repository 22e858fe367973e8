// The forward kernels of InfoNCE; see contract/info_nce.h for the formulas and letters.
#pragma once
#include "contract/info_nce.h"
#include "cuda/key_tile.cuh"
#include "cuda/online.cuh"
#include "cuda/sums.cuh"

namespace sslkern::cuda {

// A thread per packed key.
template <class T>
__global__ void __launch_bounds__(256) info_nce_columns_kernel(InfoNceColumns p) {
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.in.key.padded_N()) return;
  const bool exists = j < p.in.key.N;
  double slope = 0, offset = -INFINITY;
  if (exists) {
    const double scale = positive_or_nan(p.in.scale[p.in.scale_per_key ? j : 0]);
    slope = scale * kLog2E * double(static_cast<const T*>(p.in.key.factor)[j]);
    offset = p.in.bias == nullptr ? 0 : p.in.bias[p.in.one_bias ? 0 : j] * kLog2E;
  }
  static_cast<T*>(p.slope)[j] = T(slope);
  static_cast<T*>(p.offset)[j] = T(offset);
}

// ---- both directions from one exponential

// The largest scores of the rows and columns of a warp's part of a tile may lie so far below the
// largest of all that one shift serves them: what is lost of their sums, below 2^-126, is then less
// than 2^-46 of them.
constexpr int kSharedShift = 80;

template <class P>
struct Largest {
  using T = typename P::Working;
  T all;                   // of the warp
  LaneColumns<P> columns;  // of the lane
  bool close;              // whether one shift serves, for the warp
};

// Two comparisons for each result.
template <class P>
SSLKERN_DEVICE void find_largest(Largest<P>& found, const Results<P>& x) {
  using T = typename P::Working;
  T all = Lowest<T>::value, least = -Lowest<T>::value;
#pragma unroll
  for (int q = 0; q < kLaneColumns<P>; ++q) found.columns[q] = Lowest<T>::value;
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      T row = Lowest<T>::value;
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        const T value = x[m][q / 2][2 * h + q % 2];
        row = larger(row, value);
        found.columns[q] = larger(found.columns[q], value);
      }
      all = larger(all, row);
      if (row > Lowest<T>::value && row < least) least = row;
    }
  }
#pragma unroll
  for (int q = 0; q < kLaneColumns<P>; ++q) {
    const T column = found.columns[q];
    if (column > Lowest<T>::value && column < least) least = column;
  }
  found.all = warp_max(all);
  found.close = __all_sync(kAllLanes, least >= found.all - T(kSharedShift)) != 0;
}

// Powers of a row's results, added to the row and to their columns.
template <class P>
SSLKERN_DEVICE void add_both(const OnlineRows<P>& rows, LaneColumns<P>& column, const Results<P>& x,
                             typename P::Working shift) {
  using T = typename P::Working;
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      T total = 0;
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        const T power = power_of_two(x[m][q / 2][2 * h + q % 2] - shift);
        total += power;
        column[q] += power;
      }
      rows.add_sum(m, h, shift, total);
    }
  }
}

// Powers added to the columns alone, each with a shift of its own.
template <class P>
SSLKERN_DEVICE void add_columns(LaneColumns<P>& column, const Results<P>& x,
                                const LaneColumns<P>& shift) {
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        column[q] += power_of_two(x[m][q / 2][2 * h + q % 2] - shift[q]);
      }
    }
  }
}

// Adds a tile to the rows, and writes what its columns have to `pairs`: largest and sum.
template <class P>
SSLKERN_DEVICE void add_rows_and_columns(const OnlineRows<P>& rows, const Results<P>& x,
                                         typename P::Working* pairs, const Place<P>& at) {
  using T = typename P::Working;
  Largest<P> largest;
  find_largest<P>(largest, x);
  LaneColumns<P> column;
#pragma unroll
  for (int q = 0; q < kLaneColumns<P>; ++q) column[q] = 0;
  T shift = largest.all;
  if (largest.close) {
    add_both<P>(rows, column, x, shift);
  } else {
    rows.add(x);
#pragma unroll
    for (int q = 0; q < kLaneColumns<P>; ++q) {
      T& all_rows = largest.columns[q];
#pragma unroll
      for (int lanes = 4; lanes < 32; lanes *= 2) {
        all_rows = larger(all_rows, __shfl_xor_sync(kAllLanes, all_rows, lanes));
      }
      if (q == at.g % kLaneColumns<P>) shift = all_rows;
    }
    add_columns<P>(column, x, largest.columns);
  }
  const T sum = column_sum<P>(column, at);
  store_column_pair<P>(pairs, sum == 0 ? Lowest<T>::value : shift, sum, at);
}

// ---- sums of logits, for label smoothing and ids

// The sums and numbers of the x that count, of the rows of a lane: in shared memory as OnlineRows.
template <class P>
struct LogitRows {
  using T = typename P::Working;
  static constexpr int kRows = 2 * P::kM;
  static constexpr std::int64_t kBytes = kRows * P::kThreads * (sizeof(T) + sizeof(int));

  T* sums;
  int* numbers;

  static SSLKERN_DEVICE LogitRows in(unsigned char* shared) {
    T* const sums = reinterpret_cast<T*>(shared);
    return {sums, reinterpret_cast<int*>(sums + kRows * P::kThreads)};
  }
  SSLKERN_DEVICE void clear() const {
#pragma unroll
    for (int q = 0; q < kRows; ++q) {
      sums[q * P::kThreads + int(threadIdx.x)] = 0;
      numbers[q * P::kThreads + int(threadIdx.x)] = 0;
    }
  }
  SSLKERN_DEVICE void add(int m, int h, T sum, int number) const {
    sums[(2 * m + h) * P::kThreads + int(threadIdx.x)] += sum;
    numbers[(2 * m + h) * P::kThreads + int(threadIdx.x)] += number;
  }
  // To the pairs of the block's rows. To be called by the whole block; `shared` as in
  // store_row_sums.
  SSLKERN_DEVICE void write(double* pairs, unsigned char* shared, const Place<P>& at) const {
    T sum[P::kM][2];
    int number[P::kM][2];
#pragma unroll
    for (int q = 0; q < kRows; ++q) {
      sum[q / 2][q % 2] = sums[q * P::kThreads + int(threadIdx.x)];
      number[q / 2][q % 2] = numbers[q * P::kThreads + int(threadIdx.x)];
    }
    store_row_sums<P>(sum, reinterpret_cast<T*>(shared), at,
                      [&](int row, T total) { pairs[2 * row] = double(total); });
    store_row_sums<P>(number, reinterpret_cast<int*>(shared), at,
                      [&](int row, int total) { pairs[2 * row + 1] = double(total); });
  }
};

// Puts -infinity where a pair does not count, keeps the logits of the targets and adds up those
// that count: for the rows, and for the columns into `pairs` unless null.
template <class P>
SSLKERN_DEVICE void count_pairs(Results<P>& c, const KeyTile<P>& tile,
                                typename P::Working* positive, const LogitRows<P>& rows,
                                double* pairs) {
  using T = typename P::Working;
  const Counting<P, true> counting(tile);
  LaneColumns<P> column_sums, column_numbers;
#pragma unroll
  for (int q = 0; q < kLaneColumns<P>; ++q) column_sums[q] = column_numbers[q] = 0;
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = counting.of_row(tile.at.row_of(m, h));
      T sum = 0;
      int number = 0;
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        T& x = c[m][q / 2][2 * h + q % 2];
        if (counting.is_target(row, q)) positive[row.index] = x;
        const bool counts = counting.counts(row, q);
        sum += counts ? x : T(0);
        number += counts ? 1 : 0;
        column_sums[q] += counts ? x : T(0);
        column_numbers[q] += counts ? T(1) : T(0);
        if (!counts) x = -INFINITY;
      }
      rows.add(m, h, sum, number);
    }
  }
  if (pairs == nullptr) return;
  const T sum = column_sum<P>(column_sums, tile.at),
          number = column_sum<P>(column_numbers, tile.at);
  store_column_pair<P>(pairs, double(sum), double(number), tile.at);
}

// Where all pairs count: keeps the logits of the targets and puts -infinity behind the last row.
template <class P>
SSLKERN_DEVICE void keep_positives(Results<P>& c, const KeyTile<P>& tile,
                                   typename P::Working* positive) {
  const Counting<P, false> counting(tile);
#pragma unroll
  for (int m = 0; m < P::kM; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const auto row = counting.of_row(tile.at.row_of(m, h));
#pragma unroll
      for (int q = 0; q < kLaneColumns<P>; ++q) {
        typename P::Working& x = c[m][q / 2][2 * h + q % 2];
        if (counting.is_target(row, q)) positive[row.index] = x;
        if (!row.exists) x = -INFINITY;
      }
    }
  }
}

// Grid (tiles of the given queries, splits), block P::kThreads, dynamic shared memory of
// shared_need with OnlineRows, and with kCounts LogitRows, besides. A block owns the rows of its
// tile and walks along its share of the keys.
//
// One direction: a lane keeps the largest score and the sum of powers of the columns that it has
// seen of its rows. Per element of S: D multiply-adds, one exponential, five operations.
// Symmetric: the same powers are added along the columns too, and the pair of each column and 64
// rows (32 in float64) is written, 1/8 byte per element (1/2). One exponential, seven operations
// and 12 shuffles per 64 elements; a second exponential only in those parts of a warp, 64 x 32,
// whose rows or columns differ by more than 2^80: with CLIP's scale of 100 those with targets in
// them. Nothing else of S is written. kCounts, for label smoothing and ids: each pair is looked at,
// some eight operations more.
template <class P, bool kResident, bool kSymmetric, bool kCounts>
__global__ void __launch_bounds__(P::kThreads, kResident && !kSymmetric ? P::kMinBlocks : 1)
    info_nce_fwd_kernel(InfoNceSums p) {
  static_assert(P::kWarpRows == (sizeof(typename P::Element) == 8 ? kColumnPart / 2 : kColumnPart));
  using T = typename P::Working;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const int first_row = int(p.first_row) + int(blockIdx.x) * P::kSide;
  const Walk walk = walk_of<P>(p.in.query, p.first_row, p.in.key, p.splits);
  unsigned char* const besides = behind_tiles<P, kResident>(shared, walk);
  const OnlineRows<P> online{reinterpret_cast<T*>(besides), at};
  const LogitRows<P> logits = LogitRows<P>::in(besides + OnlineRows<P>::kBytes);
  online.clear();
  if (kCounts) logits.clear();
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int index) {
    const KeyTile<P> tile{p.in, first_row, index * P::kSide, at};
    T* const positive = static_cast<T*>(p.positive);
    tile.score(c);
    if (kCounts) {
      count_pairs<P>(c, tile, positive, logits,
                     kSymmetric ? p.col.logits + column_pairs(tile, p.first_row) : nullptr);
    } else if ((kSymmetric && !tile.all_rows_exist()) || !tile.has_no_target()) {
      keep_positives<P>(c, tile, positive);
    }
    if (kSymmetric) {
      T* const pairs = static_cast<T*>(p.col.partial) + column_pairs(tile, p.first_row);
      add_rows_and_columns<P>(online, c, pairs, at);
    } else {
      online.add(c);
    }
  });
  const std::int64_t first_pair = 2 * (blockIdx.y * p.in.query.padded_N() + first_row);
  online.write(static_cast<T*>(p.row.partial) + first_pair, reinterpret_cast<T*>(shared));
  if (kCounts) logits.write(p.row.logits + first_pair, shared, at);
}

// What a row or column has collected: the sum is in units of 2^largest.
struct Collected {
  double largest, sum, logits, number;
};

// Of all parts in their order, behind what earlier launches had if it is `carried`.
template <class T>
SSLKERN_DEVICE Collected collected(const InfoNceSide& side, std::int64_t i, bool carried) {
  Collected x{Lowest<double>::value, 0, 0, 0};
  if (carried) {
    const double2 sum = load_pair(side.carried, 2 * i), logits = load_pair(side.carried, 2 * i + 1);
    x = {sum.x, sum.y, logits.x, logits.y};
  }
  const T* const partial = static_cast<const T*>(side.partial);
  const LogSum merged = merged_sum({x.largest, x.sum}, partial, i, side.padded, side.parts);
  x.largest = merged.largest;
  x.sum = merged.sum;
  if (side.logits == nullptr) return x;
  for (std::int64_t part = 0; part < side.parts; ++part) {
    const double2 pair = load_pair(side.logits, part * side.padded + i);
    x.logits += pair.x;
    x.number += pair.y;
  }
  return x;
}

// A thread per column: keeps what its rows so far have given.
template <class T>
__global__ void __launch_bounds__(256) info_nce_carry_kernel(InfoNceSums p) {
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.col.count) return;
  const Collected x = collected<T>(p.col, j, p.first_row > 0);
  store_pair(p.col.carried, 2 * j, x.largest, x.sum);
  store_pair(p.col.carried, 2 * j + 1, x.logits, x.number);
}

// A thread per row (per column, if kColumns): merges the parts.
template <class T, bool kColumns>
__global__ void __launch_bounds__(256, 4) info_nce_merge_kernel(InfoNceSums p) {
  const InfoNceSide& side = kColumns ? p.col : p.row;
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= side.count) return;
  const Collected x = collected<T>(side, i, kColumns && p.first_row > 0);
  double lse = x.largest + log2(x.sum);
  // Nobody has looked at the targets: one that is no column makes the row NaN, its gradient too.
  const bool has_target = p.in.target != nullptr;
  if (has_target && !is_column(p.in.target[i], p.in.key)) lse = NAN;
  const double every = double(kColumns ? p.in.query.N : p.in.key.N);
  const double number = side.logits == nullptr ? every : x.number;
  const double e = p.label_smoothing;
  double loss = lse;
  if (has_target && lse == lse) {
    const double positive = double(static_cast<const T*>(p.positive)[i]);
    loss -= e == 0 ? positive : (1 - e) * positive;
  }
  if (e > 0) loss -= e * x.logits / number;
  static_cast<T*>(side.loss)[i] = T(loss * kLn2);
  side.stats[2 * i] = lse;
  side.stats[2 * i + 1] = number;
}

}  // namespace sslkern::cuda
