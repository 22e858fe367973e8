// The one inner kernel of every matrix product here: C (+)= A B for kMicroRows x 2 vectors of C
// held in registers.
#pragma once
#include "cpu/simd.h"

namespace sslkern::cpu::SSLKERN_ISA {

template <class T>
constexpr int kMicroCols = 2 * kWidth<T>;

// C[r][0..NR) (+)= sum_k A(r, k) B[k][0..NR), r < kMicroRows, NR = kMicroCols<T>, k < strips * NR +
// rest.
//   A(r, k) = a[r * RS + (k % NR) * KS + (k / NR) * a_strip]: any layout of A, read by broadcasts
//   B       = b, NR wide, contiguous
// Per step of k: kMicroRows broadcasts, 2 loads, 2 * kMicroRows multiply-adds: bound by the
// multiply-add units. Not inlined: inside the tile loops g++ 12 spills accumulators.
template <class T, int RS, int KS>
__attribute__((noinline)) void micro_product(const T* a, std::int64_t a_strip, const T* b,
                                             std::int64_t strips, int rest, T* c, std::int64_t ldc,
                                             bool accumulate) {
  constexpr int W = kWidth<T>, NR = kMicroCols<T>, MR = kMicroRows;
  Vec<T> left[MR], right[MR];
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r) left[r] = right[r] = Vec<T>{};
  const auto step = [&](const T* a_k, const T* b_k) __attribute__((always_inline)) {
    const Vec<T> b0 = load(b_k), b1 = load(b_k + W);
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      const Vec<T> x = splat<T>(a_k[r * RS]);
      multiply_add<T>(left[r], x, b0);
      multiply_add<T>(right[r], x, b1);
    }
  };
  for (; strips > 0; --strips, a += a_strip, b += NR * NR) {
    const T *a_k = a, *b_k = b;
    for (int k = 0; k < NR; k += 4, a_k += 4 * KS, b_k += 4 * NR) {
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) step(a_k + u * KS, b_k + u * NR);
    }
  }
  for (int k = 0; k < rest; ++k) step(a + k * KS, b + k * NR);
  // C joins at the end: adding every product to it in turn would round at the size of C each time,
  // an error that grows with the number of rows instead of the number of tiles.
  if (accumulate) {
#pragma GCC unroll 12
    for (int r = 0; r < MR; ++r) {
      left[r] += load(c + r * ldc);
      right[r] += load(c + r * ldc + W);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < MR; ++r) {
    store(c + r * ldc, left[r]);
    store(c + r * ldc + W, right[r]);
  }
}

}  // namespace sslkern::cpu::SSLKERN_ISA
