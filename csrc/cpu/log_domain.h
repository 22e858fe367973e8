// Sinkhorn's iterations in the log domain, for scores of any size: the largest element of a column
// (the first time) or of a row (from then on) is taken from the exponent, which at any number of
// iterations changes nothing: it is a part of g or f.
#pragma once
#include "cpu/assignment.h"
#include "cpu/log2.h"
#include "cpu/sinkhorn_rows.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Adds rows to sums of columns that are relative to their largest element so far.
template <class T, class E>
SSLKERN_INLINE void add_columns(const T* const* s, const E* const* ahead, const T* w, int count,
                                T a, T* max, T* sum) {
  for (int k = 0; k < count; k += kWidth<T>) {
    const Vec<T> before = load(max + k);
    Vec<T> x[kColumnRows], best = before, total{};
#pragma GCC unroll 8
    for (int r = 0; r < kColumnRows; ++r) {
      __builtin_prefetch(ahead[r] + k);
      x[r] = load_unaligned(s[r] + k);
      best = maximum<T>(x[r], best);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kColumnRows; ++r) {
      total += exp2_or_zero<T>((x[r] - best) * splat(a)) * splat(w[r]);
    }
    store(sum + k, load(sum + k) * exp2_or_zero<T>((before - best) * splat(a)) + total);
    store(max + k, best);
  }
}

template <class T, class E>
struct LogDomain {
  using Row = AssignedRow<T>;

  LogPotentials<T> g;
  double* g2;  // (K) the same in base 2, as one number

  static LogDomain take(Arena& arena, std::int64_t K) {
    return {LogPotentials<T>::take(arena, K), arena.take<double>(padded(K))};
  }

  void first_sums(const ProblemRows<E>& rows, std::int64_t begin, std::int64_t end, std::int64_t K,
                  Row*, T* max, T* sum) const {
    for (std::int64_t k = 0; k < padded(K); ++k) max[k] = kLowest<T>;
    for_groups<kColumnRows>(rows, begin, end,
                            [&](const std::int64_t*, const E* const* row, const double* mass,
                                int present) { add_group(row, mass, present, K, max, sum); });
  }

  void add_group(const E* const* row, const double* mass, int present, std::int64_t K, T* max,
                 T* sum) const {
    alignas(kVectorBytes) T buffer[kColumnRows][kRowBlock];
    T w[kColumnRows] = {};
    for (int r = 0; r < present; ++r) w[r] = T(mass[r]);
    for (std::int64_t first = 0; first < K; first += kRowBlock) {
      const int count = int(smaller(kRowBlock, K - first));
      const T* s[kColumnRows];
      const E* ahead[kColumnRows];
      for (int r = 0; r < kColumnRows; ++r) {
        const E* block = row[r < present ? r : 0] + first;
        // Rows that a group lacks are the first again, without a mass.
        s[r] = r < present ? read_block<T>(block, static_cast<const T*>(nullptr), count,
                                           -T(__builtin_inf()), buffer[r])
                           : s[0];
        ahead[r] = block + kRowBlock;
      }
      add_columns<T>(s, ahead, w, whole_vectors(count, kWidth<T>), g.a, max + first, sum + first);
    }
  }

  // Adds up the first sums of all chunks at k, relative to the largest element, which goes to
  // `shift`.
  SSLKERN_INLINE Vec<T> first_total(const T* max, const T* sum, std::int64_t stride,
                                    std::int64_t chunks, T* shift) const {
    Vec<T> best = splat(kLowest<T>), total{};
    for (std::int64_t c = 0; c < chunks; ++c) best = maximum<T>(load(max + c * stride), best);
    for (std::int64_t c = 0; c < chunks; ++c) {
      const Vec<T> rise = (load(max + c * stride) - best) * splat(g.a);
      total += load(sum + c * stride) * exp2_or_zero<T>(rise);
    }
    store(shift, best);
    return total;
  }

  // The first g, from what prototypes [begin, end) should get over what they got.
  void first(std::int64_t begin, std::int64_t end, const double* ratio, const T* shift) const {
    for (std::int64_t k = begin; k < end; ++k) g2[k] = -double(g.a) * double(shift[k - begin]);
    next(begin, end, ratio);
  }

  // The next one: infinity where a prototype got nothing, as it may from the rows of one process.
  void next(std::int64_t begin, std::int64_t end, const double* ratio) const {
    constexpr int W = kWidth<double>;
    const Vec<double> infinity = splat(__builtin_inf());
    for (std::int64_t k = begin; k < end; k += W) {
      const Vec<double> x = load(ratio + (k - begin));
      store(g2 + k, load(g2 + k) + (x < infinity ? log2_positive<double>(x) : x));
    }
    for (std::int64_t k = begin; k < end; ++k) g.set(k, g2[k]);
  }

  void start(std::int64_t k, double potential) const { g.set(k, g2[k] = potential); }
  void pad(std::int64_t K) const { g.pad(K); }
  double potential(std::int64_t k) const { return g2[k]; }

  // Gives each row of a group what it assigns, and f in base 2.
  void assign(const E* const* row, const double* mass, int present, std::int64_t K, Row* assigned,
              double* f) const {
    for (int r = 0; r < present; ++r) f[r] = -assign_row<T, E>(row[r], K, g, mass[r], assigned[r]);
  }

  void add(const Row* assigned, int present, std::int64_t K, T* sum) const {
    for (std::int64_t k = 0; k < K; k += kWidth<T>) {
      Vec<T> total = load(sum + k);
      for (int r = 0; r < present; ++r) total += assigned[r].at(k);
      store(sum + k, total);
    }
  }

  SSLKERN_INLINE Vec<T> share(const Row& row, std::int64_t k) const { return row.at(k); }
};

}  // namespace sslkern::cpu::SSLKERN_ISA
