// The gradient kernels of InfoNCE; see contract/info_nce.h for the formulas and letters.
#pragma once
#include "contract/info_nce.h"
#include "cuda/key_tile.cuh"
#include "cuda/packed.cuh"
#include "cuda/sums.cuh"

namespace sslkern::cuda {

// How far from their middle all lse may be for one exponential to serve both directions: x - middle
// and the weights 2^(middle - lse) then stay within float32, for x is less than either lse.
constexpr double kMostFromMiddle = 60;

// One block.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) info_nce_middle_kernel(InfoNceMiddle p) {
  SSLKERN_SHARED(double, scratch, [2 * kThreads / 32]);
  double high = -INFINITY, low = -INFINITY;  // the largest lse and -lse
  for (std::int64_t i = threadIdx.x; i < p.N + p.M; i += kThreads) {
    const double lse = i < p.N ? p.stats[2 * i] : p.stats_col[2 * (i - p.N)];
    const bool finite = fabs(lse) < INFINITY;
    high = larger(high, finite ? lse : INFINITY);
    low = larger(low, finite ? -lse : INFINITY);
  }
  const auto of_warp = [](double x) { return warp_max(x); };
  high = block_reduce<kThreads>(high, -double(INFINITY), scratch, of_warp);
  low = block_reduce<kThreads>(low, -double(INFINITY), scratch + kThreads / 32, of_warp);
  if (threadIdx.x != 0) return;
  const bool finite = high < INFINITY && low < INFINITY;
  p.middle[0] = finite ? (high - low) / 2 : 0;
  p.middle[1] = finite ? (high + low) / 2 : INFINITY;
}

// A thread per row (or column). shift + log2 of what is in fine beside g is lse, to more digits
// than a float32 has: the probability of an easy pair is 1 but for the last of them.
template <class T>
__global__ void __launch_bounds__(256) info_nce_weights_kernel(InfoNceWeights p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.padded) return;
  const bool exists = i < p.count;
  const double lse = exists ? p.stats[2 * i] : 0, number = exists ? p.stats[2 * i + 1] : 1;
  const bool given = exists && p.grad_loss != nullptr;
  const double upstream = given ? double(static_cast<const T*>(p.grad_loss)[i]) : exists ? 1 : 0;
  const double g = p.unit == nullptr ? upstream : upstream / *p.unit;
  const T shift = T(lse);
  static_cast<T*>(p.to.g)[i] = T(g);
  static_cast<T*>(p.to.shift)[i] = shift;
  static_cast<T*>(p.to.fine)[i] = T(g * exp2(double(shift) - lse));
  if (p.middle != nullptr) {
    const double power = exp2(double(T(p.middle[0])) - lse);
    static_cast<T*>(p.to.coarse)[i] = exists ? T(g * power) : T(0);  // not 0 times infinity
  }
  static_cast<T*>(p.to.uniform)[i] = T(p.label_smoothing > 0 ? g * p.label_smoothing / number : 0);
}

// What a lane adds up of G: along its rows G_ij d_ij; with kColumns along its columns G_ij and
// G_ij d_ij, too.
template <class P, bool kColumns>
struct GradientSums {
  using T = typename P::Working;
  LaneColumns<P> gradient, slope;  // of the tile
  T row[P::kM][2];                 // of the walk

  SSLKERN_DEVICE void clear_rows() {
#pragma unroll
    for (int q = 0; q < 2 * P::kM; ++q) row[q / 2][q % 2] = 0;
  }
  SSLKERN_DEVICE void clear_columns() {
#pragma unroll
    for (int q = 0; q < kLaneColumns<P>; ++q) gradient[q] = slope[q] = 0;
  }
  SSLKERN_DEVICE void add(T& row_sum, int q, T value, T d) {
    const T product = value * d;
    row_sum += product;
    if (!kColumns) return;
    gradient[q] += value;
    slope[q] += product;
  }
  SSLKERN_DEVICE void write_columns(T* pairs, const Place<P>& at) {
    const T first = column_sum<P>(gradient, at), second = column_sum<P>(slope, at);
    store_column_pair<P>(pairs, first, second, at);
  }
};

// What a block does with a tile of products: G in its place, a row at a time.
template <class P, bool kSymmetric, bool kExtras>
struct KeyGradient {
  using T = typename P::Working;
  using Sums = GradientSums<P, kExtras>;
  static constexpr int kColumns = kLaneColumns<P>;

  const InfoNceTiles& p;
  const KeyTile<P>& tile;
  T written;                // what G is multiplied by beside d_ij / c_ij
  typename P::Element* to;  // element (0, 0) of the block's tile of G, or null

  SSLKERN_DEVICE T of_row(const void* values, int row) const {
    return static_cast<const T*>(values)[tile.row + row];
  }
  SSLKERN_DEVICE T of_column(const void* values, int q) const {
    return static_cast<const T*>(values)[tile.column + tile.column_of(q)];
  }

  // Calls f(place of the row, row of the tile, its results) for each row and stores what it leaves.
  template <class F>
  SSLKERN_DEVICE void replace(Results<P>& c, const F& f) const {
    RowPointer<P> pointer(to, p.in.key.padded_N(), tile.at);
#pragma unroll
    for (int m = 0; m < P::kM; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        RowResults<P> x;
#pragma unroll
        for (int q = 0; q < kColumns; ++q) x[q] = c[m][q / 2][2 * h + q % 2];
        f(m, h, tile.at.row_of(m, h), x);
        if (to != nullptr) pointer.store(x);
      }
    }
  }

  // All pairs count and none is a target: one exponential, for symmetric that of all lse's middle.
  SSLKERN_DEVICE void plain(Results<P>& c, Sums& sums) const {
    ColumnValues<P> slope, offset, coarse;
    load_columns<P>(slope, p.in.slope, tile.column, tile.at);
    load_columns<P>(offset, p.in.offset, tile.column, tile.at);
    if (kSymmetric) load_columns<P>(coarse, p.col.coarse, tile.column, tile.at);
    const T middle = kSymmetric ? T(p.middle[0]) : T(0);
    replace(c, [&](int m, int h, int row, RowResults<P>& x) {
      const T factor = of_row(p.in.query.factor, row);
      const T shift = kSymmetric ? middle : of_row(p.row.shift, row);
      const T weight = of_row(kSymmetric ? p.row.coarse : p.row.fine, row);
      const T uniform = kSymmetric ? T(0) : of_row(p.row.uniform, row);
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const T f = factor * slope[q / 2][q % 2], d = x[q] * f;
        const T power = power_of_two(d + offset[q / 2][q % 2] - shift);
        const T value =
            kSymmetric ? power * (weight + coarse[q / 2][q % 2]) : power * weight - uniform;
        sums.add(sums.row[m][h], q, value, d);
        x[q] = value * (f * written);
      }
    });
  }

  // With the shifts of each row and column, their label smoothing, the terms of the targets, and
  // zeros where a pair does not count.
  SSLKERN_DEVICE void general(Results<P>& c, Sums& sums) const {
    ColumnValues<P> slope, offset, shift, fine;
    load_columns<P>(slope, p.in.slope, tile.column, tile.at);
    load_columns<P>(offset, p.in.offset, tile.column, tile.at);
    if (kSymmetric) {
      load_columns<P>(shift, p.col.shift, tile.column, tile.at);
      load_columns<P>(fine, p.col.fine, tile.column, tile.at);
    }
    const Counting<P, kExtras> counting(tile);
    const T kept = T(1 - p.label_smoothing);
    const bool smooths = kExtras && p.label_smoothing > 0;
    replace(c, [&](int m, int h, int row, RowResults<P>& x) {
      const T factor = of_row(p.in.query.factor, row);
      const T row_shift = of_row(p.row.shift, row), row_fine = of_row(p.row.fine, row);
      const T g = of_row(p.row.g, row), uniform = of_row(p.row.uniform, row);
      const auto counted = counting.of_row(row);
#pragma unroll
      for (int q = 0; q < kColumns; ++q) {
        const T f = factor * slope[q / 2][q % 2], d = x[q] * f;
        const T score = d + offset[q / 2][q % 2];
        T value = power_of_two(score - row_shift) * row_fine - uniform;
        if (kSymmetric) {
          value += power_of_two(score - shift[q / 2][q % 2]) * fine[q / 2][q % 2];
          if (smooths) value -= of_column(p.col.uniform, q);
        }
        if (counting.is_target(counted, q)) {
          value -= kept * (kSymmetric ? g + of_column(p.col.g, q) : g);
        }
        const bool counts = counting.counts(counted, q);
        if (counts) sums.add(sums.row[m][h], q, value, d);
        x[q] = counts ? value * (f * written) : T(0);
      }
    });
  }
};

// Grid (tiles of the given rows, splits), block P::kThreads, dynamic shared memory of shared_need.
// Writes G, (rows, padded M): per element D multiply-adds, one exponential (symmetric: two where a
// target is near, or all lse are not within 2^60 of their middle), eight operations (nine) and its
// bytes once. kExtras: ids and, if symmetric, label smoothing, for which each pair is looked at;
// and the sums of columns, three operations more and 1/8 byte (1/2 in float64).
template <class P, bool kResident, bool kSymmetric, bool kExtras>
__global__ void __launch_bounds__(P::kThreads, 1) info_nce_tiles_kernel(InfoNceTiles p) {
  using T = typename P::Working;
  using E = typename P::Element;
  SSLKERN_DYNAMIC_SHARED(unsigned char, shared);
  const Place<P> at = Place<P>::here();
  const double scale_unit = kLog2E * positive_or_nan(*p.scale_unit);
  const T written = T(gradient_scale(p.in.key.dtype) / scale_unit);
  const bool looks =
      kExtras && (p.in.query_ids != nullptr || (kSymmetric && p.label_smoothing > 0));
  const bool near = !looks && (!kSymmetric || p.middle[1] <= kMostFromMiddle);
  const int row = int(blockIdx.x) * P::kSide;
  GradientSums<P, kExtras> sums;
  sums.clear_rows();
  const Walk walk = walk_of<P>(p.in.query, p.first_row, p.in.key, p.splits);
  for_each_tile<P, kResident>(walk, shared, [&](Results<P>& c, int index) {
    const KeyTile<P> tile{p.in, int(p.first_row) + row, index * P::kSide, at};
    E* to = static_cast<E*>(p.gradient);
    if (to != nullptr) to += row * p.in.key.padded_N() + tile.column;
    const KeyGradient<P, kSymmetric, kExtras> gradient{p, tile, written, to};
    if (kExtras) sums.clear_columns();
    if (near && tile.all_rows_exist() && tile.has_no_target()) {
      gradient.plain(c, sums);
    } else {
      gradient.general(c, sums);
    }
    T* const pairs = static_cast<T*>(p.column_sum);
    if (kExtras && pairs != nullptr) {
      sums.write_columns(pairs + column_pairs(tile, p.first_row), at);
    }
  });
  T* const row_sum =
      static_cast<T*>(p.row_sum) + blockIdx.y * p.in.query.padded_N() + p.first_row + row;
  store_row_sums<P>(sums.row, reinterpret_cast<T*>(shared), at,
                    [&](int i, T total) { row_sum[i] = total; });
}

// A thread per row: xh_i . grad_xh_i, the splits in their order.
template <class T>
__global__ void __launch_bounds__(256) info_nce_row_dot_kernel(InfoNceRowDots p) {
  const std::int64_t i = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= p.N) return;
  double sum = 0;
  for (std::int64_t s = 0; s < p.splits; ++s) {
    sum += double(static_cast<const T*>(p.row_sum)[s * padded_rows(p.N) + i]);
  }
  p.row_dot[i] = sum * kLn2 * (p.unit == nullptr ? 1 : *p.unit);
}

// A thread per column: its sums of all parts in their order.
template <class T>
__global__ void __launch_bounds__(256) info_nce_column_gradients_kernel(InfoNceColumnGradients p) {
  const std::int64_t j = std::int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (j >= p.M) return;
  double gradient = 0, slope = 0;
  for (std::int64_t part = 0; part < p.parts; ++part) {
    const T* const sums = static_cast<const T*>(p.column_sum);
    const auto pair = load_pair(sums, part * padded_rows(p.M) + j);
    gradient += double(pair.x);
    slope += double(pair.y);
  }
  const double unit = p.unit == nullptr ? 1 : *p.unit;
  const auto give = [&](double* to, double value) {
    if (to != nullptr) to[j] = (p.add ? to[j] : 0) + unit * value;
  };
  give(p.grad_bias, gradient);
  if (p.grad_scale != nullptr) give(p.grad_scale, kLn2 * slope / p.scale[j]);
}

}  // namespace sslkern::cuda
