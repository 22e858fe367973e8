// Rows of scores assigned to prototypes, given the prototypes' potentials: what Sinkhorn's
// iterations and the swapped prediction share. See contract/sinkhorn.h for the letters.
//
// A team, one warp or a whole block, takes a row at a time. Its threads own columns for good, in
// kSlots vectors a team's width apart: what they know of a column, its potential and the sum of
// what the rows give it, stays in registers.
#pragma once
#include "cuda/rows.cuh"

namespace sslkern::cuda {

constexpr int kAssignThreads = 256, kAssignWarps = kAssignThreads / 32;

// Vectors of a thread, and elements: as many as leave two blocks of a multiprocessor their
// registers.
template <class E>
constexpr int kSlots = sizeof(E) == 2 ? 2 : 4;
template <class E>
constexpr int kItems = kSlots<E> * kVector<E>;

template <class E>
using Items = typename ElementOf<E>::Working[kItems<E>];

template <int kThreadsOfTeam>
struct Team {
  static constexpr int kThreads = kThreadsOfTeam, kCount = kAssignThreads / kThreads;
  int number, thread;

  static SSLKERN_DEVICE Team here() {
    return {int(threadIdx.x) / kThreads, int(threadIdx.x) % kThreads};
  }
};

template <class E, int kTeam>
constexpr int kTeamColumns = kTeam * kItems<E>;

SSLKERN_DEVICE float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }
SSLKERN_DEVICE double multiply_add(double a, double b, double c) { return fma(a, b, c); }
SSLKERN_DEVICE float log2_of(float x) { return platform::log2_approximate(x); }
SSLKERN_DEVICE double log2_of(double x) { return log2(x); }

// How scores and a potential become log2(X e^g), or with probabilities X e^g. Potentials come in
// two parts: at a low epsilon they are so large that one float32 would cost the sum its digits.
template <class T>
struct Potential {
  T high, low;

  static SSLKERN_DEVICE Potential of(double g, bool linear) {
    const double g2 = g * kLog2E;
    if (linear) return {T(exp2(g2)), 0};
    const T high = T(g2);
    return {high, T(g2 - double(high))};
  }
};

// Potentials of a vector's columns, from k on: two in one request where they lie so.
struct PotentialPairs {
  const double* g;
  std::int64_t k, K;
  bool whole;

  SSLKERN_DEVICE PotentialPairs(const double* g, std::int64_t k, std::int64_t K, int count)
      : g(g + k), k(k), K(K), whole(is_aligned(g + k) && k + count <= K) {}

  // Those of columns k + q and the next; anything behind the last.
  SSLKERN_DEVICE double2 at(int q) const {
    if (whole) return *reinterpret_cast<const double2*>(g + q);
    return {k + q < K ? g[q] : 0, k + q + 1 < K ? g[q + 1] : 0};
  }
};

// Exponentials have no sign.
template <class T>
SSLKERN_DEVICE T probability(T x) {
  return x < 0 ? T(NAN) : x;
}

// What a thread knows of its columns; behind the last one, what leaves sums as they are.
template <class E, int kTeam>
struct Columns {
  using T = typename ElementOf<E>::Working;
  static constexpr bool kTwoParts = sizeof(T) == 4;

  T high[kItems<E>], low[kTwoParts ? kItems<E> : 1];
  T a;  // log2(e) / epsilon
  bool linear;
  std::int64_t first, K;  // first of the team's, and how many there are altogether
  int slots;              // that any thread of the team has columns in

  SSLKERN_DEVICE Columns(double epsilon, bool linear, std::int64_t first, std::int64_t K)
      : a(T(kLog2E / epsilon)), linear(linear), first(first), K(K) {
    const std::int64_t width = kTeam * kVector<E>, needed = (K - first + width - 1) / width;
    slots = int(needed < kSlots<E> ? needed : kSlots<E>);
  }

  // Of the first of a slot.
  SSLKERN_DEVICE std::int64_t column(int slot) const {
    return first + (slot * kTeam + Team<kTeam>::here().thread) * kVector<E>;
  }
  template <class F>
  SSLKERN_DEVICE void for_slots(const F& f) const {
#pragma unroll
    for (int i = 0; i < kSlots<E>; ++i) {
      if (i < slots) f(i);
    }
  }

  SSLKERN_DEVICE void load(const double* g) {
    for_slots([&](int i) {
      const PotentialPairs pairs(g, column(i), K, kVector<E>);
      double2 two;
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        if (q % 2 == 0) two = pairs.at(q);
        Potential<T> p{linear ? T(0) : T(-INFINITY), 0};
        if (column(i) + q < K) p = Potential<T>::of(q % 2 == 0 ? two.x : two.y, linear);
        high[i * kVector<E> + q] = p.high;
        if (kTwoParts) low[i * kVector<E> + q] = p.low;
      }
    });
  }

  // log2(X e^g).
  SSLKERN_DEVICE T exponent(T score, int item) const {
    const T x = multiply_add(score, a, high[item]);
    return kTwoParts ? x + low[item] : x;
  }
};

// A row as it lies in memory.
template <class E>
struct RawRow {
  uint4 slot[kSlots<E>];

  template <int kTeam>
  SSLKERN_DEVICE void load(const E* row, const Columns<E, kTeam>& columns) {
    columns.for_slots([&](int i) { slot[i] = load_of_row(row, columns.column(i), columns.K); });
  }
};

// Of a row: log2(X e^g) - shift is log2 v, and `sum` that of v. What a warp has is relative to its
// own largest element, rescale times too much.
template <class T>
struct RowSum {
  T shift, sum, rescale;
};

// From the largest exponents and the sums of warps. One barrier: two rows take turns in `scratch`,
// two pairs per warp.
template <int kTeam, class T>
SSLKERN_DEVICE RowSum<T> row_sum_of_team(T largest, T sum, T* scratch, int turn) {
  if (kTeam == 32) return {largest, sum, 1};
  T* const pair = scratch + turn % 2 * (2 * kAssignWarps);
  if (threadIdx.x % 32 == 0) {
    pair[threadIdx.x / 32] = largest;
    pair[kAssignWarps + threadIdx.x / 32] = sum;
  }
  __syncthreads();
  T shift = pair[0], total = 0;
#pragma unroll
  for (int w = 1; w < kAssignWarps; ++w) shift = larger(shift, pair[w]);
#pragma unroll
  for (int w = 0; w < kAssignWarps; ++w) {
    total += pair[kAssignWarps + w] * power_of_two(pair[w] - shift);
  }
  return {shift, total, power_of_two(largest - shift)};
}

// v of a row, relative to the largest element of the warp. NaN is passed over by the maximum, and
// comes back in the sum.
template <class E, int kTeam>
SSLKERN_DEVICE RowSum<typename ElementOf<E>::Working> assign_row(
    const RawRow<E>& row, const Columns<E, kTeam>& columns, Items<E>& v,
    typename ElementOf<E>::Working* scratch, int turn) {
  using T = typename ElementOf<E>::Working;
  T largest = 0, sum = 0;
  if (columns.linear) {
    columns.for_slots([&](int i) {
      const Unpacked<E> x(row.slot[i]);
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const int item = i * kVector<E> + q;
        v[item] = probability(x.at[q]) * columns.high[item];
        sum += v[item];
      }
    });
  } else {
    largest = Lowest<T>::value;
    columns.for_slots([&](int i) {
      const Unpacked<E> score(row.slot[i]);
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const int item = i * kVector<E> + q;
        v[item] = columns.exponent(score.at[q], item);
        largest = larger(largest, v[item]);
      }
    });
    largest = warp_max(largest);
    columns.for_slots([&](int i) {
#pragma unroll
      for (int q = 0; q < kVector<E>; ++q) {
        const int item = i * kVector<E> + q;
        v[item] = power_of_two(v[item] - largest);
        sum += v[item];
      }
    });
  }
  return row_sum_of_team<kTeam>(largest, warp_sum(sum), scratch, turn);
}

// The largest of something and where it is, the first of equal ones.
template <class T>
struct Choice {
  T value;
  std::int64_t place;

  SSLKERN_DEVICE void take(T other, std::int64_t where) {
    if (other > value || (other == value && where < place)) {
      value = other;
      place = where;
    }
  }
};

template <class T>
SSLKERN_DEVICE Choice<T> choice_of_warp(Choice<T> c) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    const T value = __shfl_xor_sync(kAllLanes, c.value, distance);
    const long long place = __shfl_xor_sync(kAllLanes, (long long)(c.place), distance);
    c.take(value, place);
  }
  return c;
}

// Over a team, for all its threads: sums in float64, choices. `scratch` is one of each per warp and
// must not be in use; a block ends with a barrier.
template <int kTeam>
SSLKERN_DEVICE double sum_of_team(double x, double* scratch) {
  x = warp_sum(x);
  if (kTeam == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  double total = 0;
#pragma unroll
  for (int w = 0; w < kTeam / 32; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

template <int kTeam, class T>
SSLKERN_DEVICE std::int64_t choice_of_team(Choice<T> c, Choice<T>* scratch) {
  c = choice_of_warp(c);
  if (kTeam == 32) return c.place;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = c;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kTeam / 32; ++w) c.take(scratch[w].value, scratch[w].place);
  __syncthreads();
  return c.place;
}

// ---- rows of any length, vector by vector

// What is known of a row, by a thread or by all: sums of float64, for a long row has thousands of
// terms for each thread.
template <class T>
struct OnlineRow {
  T largest;
  double sum;

  // Vectors of exponents.
  template <int kCount>
  SSLKERN_DEVICE void add(const T (&x)[kCount]) {
    T next = largest, part = 0;
#pragma unroll
    for (int q = 0; q < kCount; ++q) next = larger(next, x[q]);
#pragma unroll
    for (int q = 0; q < kCount; ++q) part += power_of_two(x[q] - next);
    sum = sum * double(power_of_two(largest - next)) + double(part);
    largest = next;
  }
};

// Of a team's threads together, for all of them. Scratch as above.
template <int kTeam, class T>
SSLKERN_DEVICE T largest_of_team(T x, T* scratch) {
  x = warp_max(x);
  if (kTeam == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kTeam / 32; ++w) x = larger(x, scratch[w]);
  return x;
}

template <int kTeam, class T>
SSLKERN_DEVICE OnlineRow<T> row_of_team(const OnlineRow<T>& own, T* scratch, double* sums) {
  const T largest = largest_of_team<kTeam>(own.largest, scratch);
  return {largest, sum_of_team<kTeam>(own.sum * double(power_of_two(own.largest - largest)), sums)};
}

// Of a vector of a row at k: log2(X e^g), or with probabilities X e^g; nothing behind the end.
template <class E>
struct RowReader {
  using T = typename ElementOf<E>::Working;
  const E* row;
  const double* g;
  std::int64_t K;
  T a;
  bool linear;

  SSLKERN_DEVICE void read(std::int64_t k, T (&x)[kVector<E>]) const {
    const Unpacked<E> score(load_of_row(row, k, K));
    const PotentialPairs pairs(g, k, K, kVector<E>);
    double2 two;
#pragma unroll
    for (int q = 0; q < kVector<E>; ++q) {
      if (q % 2 == 0) two = pairs.at(q);
      x[q] = linear ? T(0) : T(-INFINITY);
      if (k + q >= K) continue;
      const auto p = Potential<T>::of(q % 2 == 0 ? two.x : two.y, linear);
      x[q] =
          linear ? probability(score.at[q]) * p.high : multiply_add(score.at[q], a, p.high) + p.low;
    }
  }
  SSLKERN_DEVICE T relative(T x, T shift) const { return linear ? x : power_of_two(x - shift); }
};

}  // namespace sslkern::cuda
