// tanh of a vector, in the two parts of math/tanh.h.
#pragma once
#include "cpu/exp2.h"
#include "math/tanh.h"

namespace sslkern::cpu::SSLKERN_ISA {

// NaN stays NaN, infinities give 1 and -1.
template <class T>
SSLKERN_INLINE Vec<T> tanh_of(Vec<T> u) {
  using C = math::Tanh<T>;
  const Vec<T> zero{}, one = splat(T(1)), limit = splat(C::kLimit);
  const Vec<T> magnitude = u < zero ? -u : u;
  const Vec<T> near = magnitude > limit ? limit : magnitude, z = near * near;
  Vec<T> p = splat<T>(C::kCoefficient[C::kDegree]);
#pragma GCC unroll 16
  for (int i = C::kDegree - 1; i >= 0; --i) p = p * z + splat<T>(C::kCoefficient[i]);
  const Vec<T> small = near + near * z * p;
  const Vec<T> q = exp2_or_zero<T>(magnitude * splat(T(-2 * 1.4426950408889634074)));
  const Vec<T> large = one - (q + q) / (one + q);
  const Vec<T> result = magnitude > limit ? large : small;
  return u < zero ? -result : (u == u ? result : u);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
