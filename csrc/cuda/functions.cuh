// Functions of one number that several rows share, with errors of a few roundings. MUFU gives the
// power and the quotient of float32; what it has no instruction for is a polynomial (csrc/math).
#pragma once
#include "cuda/dtype.cuh"
#include "math/log1p.h"
#include "math/tanh.h"

namespace sslkern::cuda {

// a / b, where 1 / b is a normal number: two roundings in float32.
SSLKERN_DEVICE float quotient(float a, float b) { return a * platform::reciprocal_approximate(b); }
SSLKERN_DEVICE double quotient(double a, double b) { return a / b; }

// Of the coefficients of C, lowest first. One each by recursion: device code may use a constant
// array's elements, but not the array.
template <class C, int i = 0, class T>
SSLKERN_DEVICE T polynomial(T x) {
  constexpr T coefficient = C::kCoefficient[i];
  if constexpr (i == C::kDegree) {
    return coefficient;
  } else {
    return polynomial<C, i + 1>(x) * x + coefficient;
  }
}

// e in [0, 1]. NaN stays NaN.
template <class T>
SSLKERN_DEVICE T log2_1p(T e) {
  return polynomial<math::Log1p<T>>(e) * e;
}

// NaN stays NaN, infinities give 1 and -1.
template <class T>
SSLKERN_DEVICE T tanh_of(T u) {
  using C = math::Tanh<T>;
  const T magnitude = fabs(u), square = u * u;
  const T power = power_of_two(T(-2 * kLog2E) * magnitude);
  const T large = T(1) - quotient(power + power, T(1) + power);
  return magnitude > C::kLimit ? copysign(large, u) : u + u * square * polynomial<C>(square);
}

}  // namespace sslkern::cuda
