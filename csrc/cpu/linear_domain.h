// Sinkhorn's iterations on X itself: two multiply-adds per element. For probabilities, and for
// scores whose exponentials all fit: those are then computed once.
#pragma once
#include "cpu/arena.h"
#include "cpu/sinkhorn_rows.h"

namespace sslkern::cpu::SSLKERN_ISA {

// A row of X as T, and what it is multiplied by to become one of the plan, beside e^g.
template <class T>
struct LinearRow {
  const T* x;
  T* buffer;           // (K) for rows that are not T already
  std::int64_t whole;  // elements in whole vectors at x, the rest of the row is
  Vec<T> tail;
  T factor;

  static LinearRow take(Arena& arena, std::int64_t K) {
    return {nullptr, arena.take<T>(round_up(K, kWidth<T>)), 0, Vec<T>{}, T(0)};
  }

  template <class E>
  SSLKERN_INLINE void read(const E* row, std::int64_t K) {
    if constexpr (kSame<T, E>) {
      x = row;
      whole = K / kWidth<T> * kWidth<T>;
      T rest[kWidth<T>] = {};
      for (std::int64_t k = whole; k < K; ++k) rest[k - whole] = row[k];
      __builtin_memcpy(&tail, rest, sizeof(tail));
    } else {
      x = buffer;
      whole = round_up(K, kWidth<T>);
      for (std::int64_t k = 0; k < K; ++k) buffer[k] = math::to_float(row[k]);
      for (std::int64_t k = K; k < whole; ++k) buffer[k] = T(0);
    }
  }

  SSLKERN_INLINE Vec<T> at(std::int64_t k) const {
    return k < whole ? load_unaligned(x + k) : tail;
  }
};

// f(k, elements of all rows at k) for the vectors of a group of rows that begin in [first, last).
template <class T, class F>
SSLKERN_INLINE void for_vectors(const LinearRow<T>* rows, std::int64_t K, std::int64_t first,
                                std::int64_t last, const F& f) {
  Vec<T> x[kGroup];
  for (std::int64_t k = first; k < smaller(last, rows[0].whole); k += kWidth<T>) {
#pragma GCC unroll 4
    for (int r = 0; r < kGroup; ++r) x[r] = load_unaligned(rows[r].x + k);
    f(k, x);
  }
  if (rows[0].whole >= smaller(last, K)) return;
#pragma GCC unroll 4
  for (int r = 0; r < kGroup; ++r) x[r] = rows[r].tail;
  f(rows[0].whole, x);
}

template <class T>
SSLKERN_INLINE void add_rows(const LinearRow<T>* rows, std::int64_t K, T* sum) {
  Vec<T> factor[kGroup];
  for (int r = 0; r < kGroup; ++r) factor[r] = splat(rows[r].factor);
  for_vectors<T>(rows, K, 0, K,
                 [&](std::int64_t k, const Vec<T>* x) __attribute__((always_inline)) {
                   store(sum + k, load(sum + k) + ((x[0] * factor[0] + x[1] * factor[1]) +
                                                   (x[2] * factor[2] + x[3] * factor[3])));
                 });
}

template <class T, class E>
struct LinearDomain {
  using Row = LinearRow<T>;

  T* scale;  // (K) e^g

  static LinearDomain take(Arena& arena, std::int64_t K) {
    return {arena.take<T>(round_up(K, kWidth<T>))};
  }

  // A group always has kGroup rows; those that it lacks are others again, without a mass.
  SSLKERN_INLINE void read_group(const E* const* row, const double* mass, int present,
                                 std::int64_t K, Row* out) const {
    for (int r = 0; r < kGroup; ++r) {
      if (r < present) {
        out[r].read(row[r], K);
        out[r].factor = T(mass[r]);
      } else {
        T* const buffer = out[r].buffer;
        out[r] = out[0];
        out[r].buffer = buffer;
        out[r].factor = T(0);
      }
    }
  }

  void first_sums(const ProblemRows<E>& rows, std::int64_t begin, std::int64_t end, std::int64_t K,
                  Row* buffers, T*, T* sum) const {
    for_groups<kGroup>(
        rows, begin, end,
        [&](const std::int64_t*, const E* const* row, const double* mass, int present) {
          read_group(row, mass, present, K, buffers);
          add_rows<T>(buffers, K, sum);
        });
  }

  SSLKERN_INLINE Vec<T> first_total(const T*, const T* sum, std::int64_t stride,
                                    std::int64_t chunks, T*) const {
    Vec<T> total{};
    for (std::int64_t c = 0; c < chunks; ++c) total += load(sum + c * stride);
    return total;
  }

  // The sums are those of X, not of what has been assigned: each ratio is an e^g.
  void first(std::int64_t begin, std::int64_t end, const double* ratio, const T*) const {
    next(begin, end, ratio);
  }
  void next(std::int64_t begin, std::int64_t end, const double* ratio) const {
    for (std::int64_t k = begin; k < end; ++k) scale[k] = T(ratio[k - begin]);
  }

  void start(std::int64_t k, double potential) const { scale[k] = T(__builtin_exp2(potential)); }
  double potential(std::int64_t k) const { return __builtin_log2(double(scale[k])); }
  void pad(std::int64_t K) const {
    for (std::int64_t k = K; k < round_up(K, kWidth<T>); ++k) scale[k] = T(0);
  }

  void assign(const E* const* row, const double* mass, int present, std::int64_t K, Row* assigned,
              double* f) const {
    read_group(row, mass, present, K, assigned);
    double sum[kGroup] = {};
    // In blocks: one sum of T over a long row would lose digits.
    for (std::int64_t first = 0; first < K; first += kRowBlock) {
      Vec<T> total[kGroup] = {};
      for_vectors<T>(assigned, K, first, first + kRowBlock,
                     [&](std::int64_t k, const Vec<T>* x) __attribute__((always_inline)) {
                       const Vec<T> e = load(scale + k);
#pragma GCC unroll 4
                       for (int r = 0; r < kGroup; ++r) {
                         __builtin_prefetch(assigned[r].x + k + kRowBlock / 2);
                         multiply_add<T>(total[r], x[r], e);
                       }
                     });
      for (int r = 0; r < present; ++r) sum[r] += double(horizontal_sum<T>(total[r]));
    }
    for (int r = 0; r < present; ++r) {
      f[r] = -__builtin_log2(sum[r]);
      assigned[r].factor = T(mass[r] / sum[r]);
    }
  }

  void add(const Row* assigned, int, std::int64_t K, T* sum) const {
    add_rows<T>(assigned, K, sum);
  }

  SSLKERN_INLINE Vec<T> share(const Row& row, std::int64_t k) const {
    return row.at(k) * load(scale + k) * splat(row.factor);
  }
};

}  // namespace sslkern::cpu::SSLKERN_ISA
