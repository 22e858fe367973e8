// What the softmax losses do with a finished tile of x = s log2(e): sums of powers of two for the
// log-sum-exp of its rows and columns, and the gradient of both in its place.
#pragma once
#include "cpu/exp2.h"
#include "cpu/tile.h"
#include "math/online_lse.h"

namespace sslkern::cpu::SSLKERN_ISA {

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

// While no |x| exceeds this, 2^x needs no shift: sums of 2^27 terms and weights of 1/2^27 still
// have 20 binary orders to spare in float32, and one exponential serves the row and the column.
constexpr double kBound = 80;

// Masks say which elements of a micro-tile count: mask(r, q) for the lanes q .. q + W of its row r.
struct AllLanes {
  static constexpr bool kAll = true;
};

template <class T, class Mask>
SSLKERN_INLINE Vec<T> masked(const Mask& mask, int r, int q, Vec<T> value, Vec<T> otherwise) {
  if constexpr (Mask::kAll) {
    return value;
  } else {
    return mask(r, q) ? value : otherwise;
  }
}

// Row and column sums of one tile, relative to 2^max.
template <class T>
struct TileSums {
  alignas(kVectorBytes) T row_max[kMaxTile], col_max[kMaxTile];
  alignas(kVectorBytes) T row_sum[kMaxTile][kWidth<T>];  // vectors until the tile is done
  alignas(kVectorBytes) T col_sum[kMaxTile];

  math::OnlineLse row(std::int64_t i) const {
    return {row_max[i], horizontal_sum<T>(load(row_sum[i]))};
  }
  math::OnlineLse column(std::int64_t j) const { return {col_max[j], col_sum[j]}; }
};

// Adds 2^x of a micro-tile to the sums, without a shift.
template <class T, class Mask>
SSLKERN_INLINE void add_powers(const MicroTile<T>& m, const Mask& mask, TileSums<T>& sums) {
  constexpr int W = kWidth<T>;
  Vec<T> c0 = load(sums.col_sum + m.j), c1 = load(sums.col_sum + m.j + W);
#pragma GCC unroll 12
  for (int r = 0; r < kMicroRows; ++r) {
    const Vec<T> zero{};
    const Vec<T> e0 = masked<T>(mask, r, 0, exp2_in_range<T>(load(m.c + r * m.ldc)), zero);
    const Vec<T> e1 = masked<T>(mask, r, W, exp2_in_range<T>(load(m.c + r * m.ldc + W)), zero);
    c0 += e0;
    c1 += e1;
    store(sums.row_sum[m.i + r], load(sums.row_sum[m.i + r]) + (e0 + e1));
  }
  store(sums.col_sum + m.j, c0);
  store(sums.col_sum + m.j + W, c1);
}

// Puts -infinity where the mask is not, for reduce_tile.
template <class T, class Mask>
SSLKERN_INLINE void hide_masked(const MicroTile<T>& m, const Mask& mask) {
  for (int r = 0; r < kMicroRows; ++r) {
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      store(c, masked<T>(mask, r, q, load(c), splat(-T(__builtin_inf()))));
    }
  }
}

// Row and column maxima and sums of a whole tile in memory, in which masked elements are -infinity.
template <class T>
void reduce_tile(const T* tile, int rows, int cols, TileSums<T>& sums) {
  constexpr int W = kWidth<T>;
  const T lowest = -T(__builtin_inf());
  for (int j = 0; j < cols; ++j) sums.col_max[j] = lowest;
  for (int i = 0; i < rows; ++i) {
    const T* x = tile + i * kTilePitch<T>;
    Vec<T> best = splat(lowest);
    for (int j = 0; j < cols; j += W) {
      best = maximum<T>(best, load(x + j));
      store(sums.col_max + j, maximum<T>(load(sums.col_max + j), load(x + j)));
    }
    sums.row_max[i] = horizontal_max<T>(best);
  }
  // A maximum of -infinity (all masked, or no number at all) shifts nothing: masked elements then
  // add 0, NaN stays NaN.
  for (int i = 0; i < rows; ++i) {
    sums.row_max[i] = sums.row_max[i] == lowest ? T(0) : sums.row_max[i];
  }
  for (int j = 0; j < cols; ++j) {
    sums.col_max[j] = sums.col_max[j] == lowest ? T(0) : sums.col_max[j];
  }
  for (int i = 0; i < rows; ++i) {
    const T* x = tile + i * kTilePitch<T>;
    Vec<T> sum{};
    for (int j = 0; j < cols; j += W) {
      sum += exp2_or_zero<T>(load(x + j) - splat(sums.row_max[i]));
      store(sums.col_sum + j,
            load(sums.col_sum + j) + exp2_or_zero<T>(load(x + j) - load(sums.col_max + j)));
    }
    store(sums.row_sum[i], sum);
  }
}

// The largest |g_i|: dividing by it keeps tiny or huge upstream gradients (loss scaling) inside
// float32. Infinity where one is not finite.
template <class T>
double largest_gradient(const T* g, std::int64_t n) {
  double largest = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double magnitude = __builtin_fabs(double(g[i]));
    if (!(magnitude <= __DBL_MAX__)) return __builtin_inf();
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

// What to divide gradients by, given the largest.
SSLKERN_INLINE double gradient_unit(double largest) {
  return largest > 0 && largest <= __DBL_MAX__ ? largest : 1.0;
}

// Per row (or column): the upstream gradient, and what turns 2^x into g p: a weight while x is
// bounded, else log2 of the row's sum, in two parts because one float32 would cost p its digits.
template <class T>
struct SoftmaxRows {
  T *g, *weight, *lse_high, *lse_low;

  template <class Arena>
  static SoftmaxRows take(Arena& arena, std::int64_t count) {
    return {arena.template take<T>(count), arena.template take<T>(count),
            arena.template take<T>(count), arena.template take<T>(count)};
  }

  void set(std::int64_t i, double gradient, double lse) const {
    set_log2(i, gradient, lse * kLog2E);
  }

  void set_log2(std::int64_t i, double gradient, double log2_sum) const {
    g[i] = T(gradient);
    weight[i] = T(gradient * __builtin_exp2(-log2_sum));
    lse_high[i] = T(log2_sum);
    lse_low[i] = T(log2_sum - double(lse_high[i]));
  }

  void clear(std::int64_t i) const { g[i] = weight[i] = lse_high[i] = lse_low[i] = T(0); }
};

// g_i p_ij + h_j q_ij of one vector, from x.
template <class T, bool kBounded>
SSLKERN_INLINE Vec<T> pair_gradient(const SoftmaxRows<T>& rows, const SoftmaxRows<T>& cols,
                                    Vec<T> x, std::int64_t row, std::int64_t column) {
  if constexpr (kBounded) {
    return exp2_in_range<T>(x) * (splat(rows.weight[row]) + load(cols.weight + column));
  } else {
    const Vec<T> p = exp2_or_zero<T>((x - splat(rows.lse_high[row])) - splat(rows.lse_low[row]));
    const Vec<T> q =
        exp2_or_zero<T>((x - load(cols.lse_high + column)) - load(cols.lse_low + column));
    return p * splat(rows.g[row]) + q * load(cols.g + column);
  }
}

// g_i p_ij alone.
template <class T, bool kBounded>
SSLKERN_INLINE Vec<T> row_gradient(const SoftmaxRows<T>& rows, Vec<T> x, std::int64_t row) {
  if constexpr (kBounded) {
    return exp2_in_range<T>(x) * splat(rows.weight[row]);
  } else {
    return exp2_or_zero<T>((x - splat(rows.lse_high[row])) - splat(rows.lse_low[row])) *
           splat(rows.g[row]);
  }
}

// Replaces a micro-tile by gradient(r, q, x), 0 where the mask is not.
template <class T, class Mask, class Gradient>
SSLKERN_INLINE void replace_by_gradient(const MicroTile<T>& m, const Mask& mask,
                                        const Gradient& gradient) {
#pragma GCC unroll 12
  for (int r = 0; r < kMicroRows; ++r) {
#pragma GCC unroll 2
    for (int q = 0; q < kMicroCols<T>; q += kWidth<T>) {
      T* c = m.c + r * m.ldc + q;
      store(c, masked<T>(mask, r, q, gradient(r, q, load(c)), Vec<T>{}));
    }
  }
}

// A row of the result, from its strips: `grad`, the gradient with respect to the row z as it was
// packed, goes back through the normalisation, is multiplied by `outer` and written as E. The
// packed row may be `length` times the unit row. Returns z . grad.
template <class T, class E>
double write_gradient_row(const T* z, const T* grad, std::int64_t strip_size, std::int64_t dims,
                          bool normalize, double length, double outer, E* out) {
  constexpr int NR = kMicroCols<T>;
  double dot = 0;
  for (std::int64_t s = 0; s < ceil_div(dims, NR); ++s) {
    double part[NR];
    const T *zs = z + s * strip_size, *gs = grad + s * strip_size;
    for (int c = 0; c < NR; ++c) part[c] = double(zs[c]) * double(gs[c]);
    for (int half = NR / 2; half > 0; half /= 2) {
      for (int c = 0; c < half; ++c) part[c] += part[c + half];
    }
    dot += part[0];
  }
  const double along = normalize ? dot / (length * length) : 0.0;
  for (std::int64_t d = 0; d < dims; d += NR) {
    const T *zs = z + d / NR * strip_size, *gs = grad + d / NR * strip_size;
    for (int c = 0; c < smaller(NR, dims - d); ++c) {
      out[d + c] = math::Rounded<E>::from(T((double(gs[c]) - along * double(zs[c])) * outer));
    }
  }
  return dot;
}

}  // namespace sslkern::cpu::SSLKERN_ISA
