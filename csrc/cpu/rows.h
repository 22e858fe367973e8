// What losses over rows of scores in memory share. Such a loss takes sums over each row and reads
// little else, so memory is its floor: a row goes by in blocks, and a block is in L1 from the look
// for its largest element to its last use.
#pragma once
#include "cpu/softmax.h"

namespace sslkern::cpu::SSLKERN_ISA {

// Elements of a block, whole vectors of every type: four blocks of float64 fit L1.
constexpr int kRowBlock = 1024;

template <class T>
SSLKERN_INLINE Vec<T> load_unaligned(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <class T>
SSLKERN_INLINE void store_unaligned(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

template <class T>
constexpr T kLowest = -T(sizeof(T) == 4 ? __FLT_MAX__ : __DBL_MAX__);

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

SSLKERN_INLINE int whole_vectors(int count, int width) {
  return (count + width - 1) / width * width;
}

// `count` elements of a row as T, less those of `center` (null: none), in whole vectors with
// `padding` behind the last: where they lie if they are so already, else in `buffer`.
template <class T, class E>
SSLKERN_INLINE const T* read_block(const E* row, const T* center, int count, T padding, T* buffer) {
  if constexpr (kSame<T, E>) {
    if (center == nullptr && count % kWidth<T> == 0) return row;
  }
  if (center == nullptr) {
    for (int k = 0; k < count; ++k) buffer[k] = math::to_float(row[k]);
  } else {
    for (int k = 0; k < count; ++k) buffer[k] = math::to_float(row[k]) - center[k];
  }
  for (int k = count; k < whole_vectors(count, kWidth<T>); ++k) buffer[k] = padding;
  return buffer;
}

// The largest of a block, or kLowest: a finite number to subtract also where all are -infinity.
// NaN is passed over; it shows in the sums.
template <class T>
SSLKERN_INLINE T largest_element(const T* x, int count) {
  Vec<T> best = splat(kLowest<T>);
  for (int k = 0; k < count; k += kWidth<T>) best = maximum<T>(load_unaligned(x + k), best);
  return horizontal_max<T>(best);
}

// 2^(scale (x - max)) of elements none of which exceeds max. The difference first: it is exact for
// the elements that matter, while scale * x may have lost all its digits.
template <class T>
SSLKERN_INLINE Vec<T> power_below(Vec<T> x, T max, T scale) {
  return exp2_or_zero<T>((x - splat(max)) * splat(scale));
}

// weight * distance, and 0 where the weight is 0 whatever the distance is. A NaN weight stays NaN.
template <class T>
SSLKERN_INLINE Vec<T> weighted(Vec<T> weight, Vec<T> distance) {
  return weight == splat(T(0)) ? splat(T(0)) : weight * distance;
}

// Sums of a row of scores s and of its targets, relative to the largest s and the largest u so far:
// see contract/soft_cross_entropy.h for the letters.
struct SoftTargetSums {
  double student_max, teacher_max;
  double student_sum;  // sum_k 2^(a (s_k - student_max))
  double teacher_sum;  // sum_k w_k, where q is proportional to w
  double distance;     // sum_k w_k (student_max - s_k)

  void raise_student(double max, double a) {
    if (!(max > student_max)) return;
    const double rise = max - student_max;
    student_sum *= __builtin_exp2(-a * rise);
    distance += teacher_sum * rise;
    student_max = max;
  }

  // A distance may be infinite; a weight of 0 takes it away, see weighted().
  void raise_teacher(double max, double b) {
    if (!(max > teacher_max)) return;
    const double factor = __builtin_exp2(-b * (max - teacher_max));
    teacher_sum *= factor;
    distance = factor == 0 ? 0 : distance * factor;
    teacher_max = max;
  }
};

// Adds a block of a row: scores s, and targets w(k), the weights of elements k to k + W. ahead(k)
// asks for memory that the next block is going to read: by itself the processor would not before
// the block's arithmetic is over.
template <class T, class Target, class Ahead>
SSLKERN_INLINE void add_block(const T* s, int count, T a, const Target& w, const Ahead& ahead,
                              SoftTargetSums& sums) {
  const T max = T(sums.student_max);
  Vec<T> student{}, teacher{}, distance{};
  for (int k = 0; k < count; k += kWidth<T>) {
    ahead(k);
    const Vec<T> x = load_unaligned(s + k), target = w(k);
    student += power_below<T>(x, max, a);
    teacher += target;
    distance += weighted<T>(target, splat(max) - x);
  }
  sums.student_sum += double(horizontal_sum<T>(student));
  sums.teacher_sum += double(horizontal_sum<T>(teacher));
  sums.distance += double(horizontal_sum<T>(distance));
}

// m p - q of a block times `factor`, into `out`; q(k) and ahead(k) as w and ahead above. Returns
// sum_k (m p_k - q_k) (s_k - max) if wanted.
template <bool kSlope, class T, class Target, class Ahead>
SSLKERN_INLINE double gradient_block(const T* s, int count, T max, T a, T student_weight,
                                     const Target& q, T factor, const Ahead& ahead, T* out) {
  Vec<T> slope{};
  for (int k = 0; k < count; k += kWidth<T>) {
    ahead(k);
    const Vec<T> x = load_unaligned(s + k);
    const Vec<T> gradient = power_below<T>(x, max, a) * splat(student_weight) - q(k);
    if constexpr (kSlope) slope += weighted<T>(gradient, x - splat(max));
    store_unaligned(out + k, gradient * splat(factor));
  }
  return kSlope ? double(horizontal_sum<T>(slope)) : 0.0;
}

// Where a block of `count` results of type E is computed: where it belongs if it may be written as
// T there, else in `buffer`, from which write_block brings it.
template <class T, class E>
SSLKERN_INLINE T* result_block(E* out, int count, T* buffer) {
  if constexpr (kSame<T, E>) {
    if (count % kWidth<T> == 0) return out;
  }
  return buffer;
}

template <class T, class E>
SSLKERN_INLINE void write_block(const T* block, int count, E* out) {
  if constexpr (kSame<T, E>) {
    if (block == out) return;
  }
  for (int k = 0; k < count; ++k) out[k] = math::Rounded<E>::from(block[k]);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
