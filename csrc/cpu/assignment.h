// Rows of scores assigned to prototypes, given the prototypes' potentials, in the log domain: what
// Sinkhorn's iterations and the swapped prediction share. See contract/sinkhorn.h for the letters.
#pragma once
#include "cpu/arena.h"
#include "cpu/rows.h"

namespace sslkern::cpu::SSLKERN_ISA {

// x = s a + (high + low) = log2(X e^g). The potentials in two parts: at a low epsilon they are so
// large that one float32 would cost x its digits.
template <class T>
struct LogPotentials {
  T a;  // log2(e) / epsilon
  T *high, *low;

  static LogPotentials take(Arena& arena, std::int64_t K) {
    return {T(0), arena.take<T>(round_up(K, kWidth<T>)), arena.take<T>(round_up(K, kWidth<T>))};
  }

  // `g` in base 2.
  void set(std::int64_t k, double g) const {
    high[k] = T(g);
    low[k] = T(g - double(high[k]));
  }

  // What lies behind the last prototype.
  void pad(std::int64_t K) const {
    for (std::int64_t k = K; k < round_up(K, kWidth<T>); ++k) high[k] = low[k] = T(0);
  }

  SSLKERN_INLINE Vec<T> operator()(Vec<T> s, std::int64_t k) const {
    Vec<T> x = load(high + k);
    multiply_add<T>(x, s, splat(a));
    return x + load(low + k);
  }
};

// A row of the plan as factors: e_k = X_k e^g_k over the largest of its block, and for each block
// what makes the whole row sum to its mass. The largest of a block and not of the row: a block is
// then in L1 until it is done.
template <class T>
struct AssignedRow {
  T* e;       // (K)
  T* factor;  // (blocks)

  static AssignedRow take(Arena& arena, std::int64_t K) {
    return {arena.take<T>(round_up(K, kWidth<T>)), arena.take<T>(ceil_div(K, kRowBlock))};
  }

  SSLKERN_INLINE Vec<T> at(std::int64_t k) const {
    return load(e + k) * splat(factor[k / kRowBlock]);
  }
};

// Fills a block of e from its scores; returns its sum, and in `max` the largest exponent. `ahead`
// is what will be read next: by itself the processor would not ask for it in time.
template <class T, class E>
SSLKERN_INLINE double assign_block(const T* s, const E* ahead, std::int64_t first, int count,
                                   const LogPotentials<T>& g, T* e, T* max) {
  Vec<T> largest = splat(kLowest<T>), sum{};
  for (int k = 0; k < count; k += kWidth<T>) {
    __builtin_prefetch(ahead + k);
    const Vec<T> x = g(load_unaligned(s + k), first + k);
    store(e + k, x);
    largest = maximum<T>(x, largest);
  }
  const T top = horizontal_max<T>(largest);
  for (int k = 0; k < count; k += kWidth<T>) {
    const Vec<T> power = exp2_or_zero<T>(load(e + k) - splat(top));
    store(e + k, power);
    sum += power;
  }
  *max = top;
  return double(horizontal_sum<T>(sum));
}

// Assigns a row that has `mass` to share out. Returns -f in base 2: log2 sum_k X_k e^g_k.
template <class T, class E>
double assign_row(const E* row, std::int64_t K, const LogPotentials<T>& g, double mass,
                  const AssignedRow<T>& out) {
  alignas(kVectorBytes) T buffer[kRowBlock];
  double max = double(kLowest<T>), sum = 0;
  for (std::int64_t first = 0; first < K; first += kRowBlock) {
    const int count = int(smaller(kRowBlock, K - first));
    const T* s = read_block<T>(row + first, static_cast<const T*>(nullptr), count,
                               -T(__builtin_inf()), buffer);
    T* block_max = out.factor + first / kRowBlock;
    const double block_sum =
        assign_block<T>(s, row + first + kRowBlock, first, whole_vectors(count, kWidth<T>), g,
                        out.e + first, block_max);
    const double rise = double(*block_max) - max;
    sum =
        rise > 0 ? sum * __builtin_exp2(-rise) + block_sum : sum + block_sum * __builtin_exp2(rise);
    max = rise > 0 ? double(*block_max) : max;
  }
  for (std::int64_t j = 0; j < ceil_div(K, kRowBlock); ++j) {
    out.factor[j] = T(__builtin_exp2(double(out.factor[j]) - max) * (mass / sum));
  }
  return max + __builtin_log2(sum);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
