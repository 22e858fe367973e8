// log2 of a vector of positive numbers: the exponent from the bits, the rest by log1p.h.
#pragma once
#include "cpu/log1p.h"

namespace sslkern::cpu::SSLKERN_ISA {

// For normal numbers, as exactly as the result's own size allows, not relative to x - 1: of x near
// 1 the result is near 0 with the error of a number near 1. 0 gives a finite number below all
// others, infinity, NaN and negative numbers give NaN.
template <class T>
SSLKERN_INLINE Vec<T> log2_positive(Vec<T> x) {
  using S = Simd<T>;
  using Int = typename S::Int;
  const IntVec<T> bits = reinterpret_cast<IntVec<T>>(x);
  const IntVec<T> mantissa = bits & (IntVec<T>{} + ((Int(1) << S::kMantissaBits) - 1));
  const IntVec<T> from_one = mantissa | (IntVec<T>{} + (S::kExponentBias << S::kMantissaBits));
  const IntVec<T> exponent = (bits >> S::kMantissaBits) - S::kExponentBias;
  const Vec<T> log = __builtin_convertvector(exponent, Vec<T>) +
                     log2_1p<T>(reinterpret_cast<Vec<T>>(from_one) - splat(T(1)));
  const T infinity = T(__builtin_inf());
  return (x >= splat(T(0))) & (x < splat(infinity)) ? log : splat(T(__builtin_nan("")));
}

}  // namespace sslkern::cpu::SSLKERN_ISA
