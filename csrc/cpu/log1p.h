// log2(1 + e) of a vector by the polynomial of math/log1p.h.
#pragma once
#include "cpu/simd.h"
#include "math/log1p.h"

namespace sslkern::cpu::SSLKERN_ISA {

// NaN stays NaN, 0 stays 0.
template <class T>
SSLKERN_INLINE Vec<T> log2_1p(Vec<T> e) {
  using L = math::Log1p<T>;
  Vec<T> p = splat<T>(L::kCoefficient[L::kDegree]);
#pragma GCC unroll 20
  for (int i = L::kDegree - 1; i >= 0; --i) p = p * e + splat<T>(L::kCoefficient[i]);
  return p * e;
}

}  // namespace sslkern::cpu::SSLKERN_ISA
