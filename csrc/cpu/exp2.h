// 2^x of a vector: x = n + f with n an integer and |f| <= 1/2, 2^f by a minimax polynomial (Remez;
// relative error 2e-9 for float, 3e-18 for double, so rounding is what remains), 2^n by its bits.
#pragma once
#include "cpu/simd.h"

namespace sslkern::cpu::SSLKERN_ISA {

template <class T>
struct Exp2;

template <>
struct Exp2<float> {
  static constexpr int kDegree = 6;
  static constexpr float kCoefficient[kDegree + 1] = {
      1.0f,           0.693147206f,   0.240226469f,   5.55032879e-2f,
      9.61848896e-3f, 1.33999312e-3f, 1.53458122e-4f,
  };
  static constexpr float kRound =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  static constexpr float kLowest = -126.0f;  // 2^x stays a normal number
};

template <>
struct Exp2<double> {
  static constexpr int kDegree = 11;
  static constexpr double kCoefficient[kDegree + 1] = {
      1.0,
      0.69314718055994533046,
      0.24022650695910156204,
      0.055504108664819921605,
      0.0096181291075883352443,
      0.0013333558146789921722,
      0.00015403530462504321,
      0.000015252733489988525649,
      1.321543308967639918e-6,
      1.0178198021671930844e-7,
      7.0741056135081427963e-9,
      4.4352827069572771511e-10,
  };
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLowest = -1022.0;
};

// For x in [kLowest, -kLowest]. NaN stays NaN: the last step multiplies instead of adding to the
// exponent bits.
template <class T>
SSLKERN_INLINE Vec<T> exp2_in_range(Vec<T> x) {
  using E = Exp2<T>;
  // The bias rides along in the rounding constant, so that the low bits are the biased exponent at
  // once.
  const Vec<T> round = splat<T>(E::kRound + T(Simd<T>::kExponentBias));
  const Vec<T> shifted = x + round;
  const Vec<T> f = x - (shifted - round);
  Vec<T> p = splat<T>(E::kCoefficient[E::kDegree]);
#pragma GCC unroll 12
  for (int i = E::kDegree - 1; i >= 0; --i) p = p * f + splat<T>(E::kCoefficient[i]);
  const IntVec<T> bits = reinterpret_cast<IntVec<T>>(shifted) << Simd<T>::kMantissaBits;
  return p * reinterpret_cast<Vec<T>>(bits);
}

// For x <= -kLowest, below kLowest exactly 0; NaN stays NaN.
template <class T>
SSLKERN_INLINE Vec<T> exp2_or_zero(Vec<T> x) {
  const auto below = x < splat<T>(Exp2<T>::kLowest);
  const Vec<T> e = exp2_in_range<T>(below ? splat<T>(Exp2<T>::kLowest) : x);
  return below ? splat<T>(0) : e;
}

}  // namespace sslkern::cpu::SSLKERN_ISA
