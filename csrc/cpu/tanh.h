// tanh of a vector. Up to |u| = 0.63 it is u + u^3 P(u^2) with an interpolating polynomial
// (relative error 7e-9 for float, 1e-17 for double), which keeps the digits of small results;
// beyond, 1 - 2 / (1 + e^2u).
#pragma once
#include "cpu/exp2.h"

namespace sslkern::cpu::SSLKERN_ISA {

template <class T>
struct Tanh;

template <>
struct Tanh<float> {
  static constexpr int kDegree = 5;
  static constexpr float kCoefficient[kDegree + 1] = {
      -0.333333343f, 0.133332998f, -0.0539584607f, 0.0217625033f, -0.00832318701f, 0.0022695018f,
  };
};

template <>
struct Tanh<double> {
  static constexpr int kDegree = 13;
  static constexpr double kCoefficient[kDegree + 1] = {
      -0.33333333333333331483,    0.13333333333333333148,      -0.053968253968252812014,
      0.021869488536080745195,    -0.0088632355274013176205,   0.0035921279861448633317,
      -0.0014558337264772231237,  0.00059002154565090969042,   -0.00023909225607937785712,
      0.000096751752183264386848, -0.000038762027320133520393, 0.000014774632745515326853,
      -4.717518425508320953e-6,   8.9560645481586558771e-7,
  };
};

// NaN stays NaN, infinities give 1 and -1.
template <class T>
SSLKERN_INLINE Vec<T> tanh_of(Vec<T> u) {
  using C = Tanh<T>;
  const Vec<T> zero{}, one = splat(T(1)), limit = splat(T(0.63));
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
