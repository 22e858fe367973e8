// Numbers as the instructions treat them.
#pragma once
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "platform/ptx/program.h"
#include "platform/simt/fragments.h"

namespace sslkern::ptx {

template <class To, class From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

// Subnormal numbers as .ftz takes them: zero of the same sign.
template <class T>
T flushed(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T(0), x) : x;
}

// Every NaN that a float32 instruction returns is the same one.
inline float canonical(float x) { return x == x ? x : bits_as<float>(0x7fffffffu); }
inline double canonical(double x) { return x; }

// .sat: to [0, 1], NaN to 0.
template <class T>
T saturated(T x) {
  return x > 0 ? (x < 1 ? x : T(1)) : T(0);
}

inline int host_mode(Rounding rounding) {
  switch (rounding) {
    case Rounding::kZero:
      return FE_TOWARDZERO;
    case Rounding::kDown:
      return FE_DOWNWARD;
    case Rounding::kUp:
      return FE_UPWARD;
    default:
      return FE_TONEAREST;
  }
}

// f() under a rounding mode. What f reads must be volatile, lest it is computed before the mode is
// set.
template <class F>
auto rounded(Rounding rounding, const F& f) {
  if (rounding == Rounding::kNearest) return f();
  const int before = std::fegetround();
  std::fesetround(host_mode(rounding));
  volatile auto result = f();
  std::fesetround(before);
  return decltype(f())(result);
}

// float32 to 16 bits: to nearest even, or toward zero. NaN becomes 0x7fff.
inline std::uint16_t narrowed(float x, Rounding rounding, std::uint16_t (*to_nearest)(float),
                              float (*back)(std::uint16_t)) {
  if (x != x) return 0x7fff;
  const std::uint16_t nearest = to_nearest(x);
  const bool too_far = std::fabs(back(nearest)) > std::fabs(x);
  return rounding == Rounding::kZero && too_far ? std::uint16_t(nearest - 1) : nearest;
}
inline std::uint16_t to_f16(float x, Rounding rounding) {
  return narrowed(x, rounding, simt::to_f16, simt::from_f16);
}
inline std::uint16_t to_bf16(float x, Rounding rounding) {
  return narrowed(x, rounding, simt::to_bf16, simt::from_bf16);
}

// float32 without the 13 bits that tf32 has not.
inline std::uint32_t to_tf32(float x, Rounding rounding) {
  const auto bits = bits_as<std::uint32_t>(x);
  if (x != x) return 0x7fffffffu;
  if (std::isinf(x)) return bits;
  const std::uint32_t half = rounding == Rounding::kZero          ? 0
                             : rounding == Rounding::kNearestAway ? 0x1000
                                                                  : 0xfff + (bits >> 13 & 1);
  return (bits + half) & 0xffffe000u;
}

// A real number to an integer type: clamped to its range. NaN is 0, but the highest bit alone where
// either side has 64 bits.
template <class I, class T>
I to_integer(T x) {
  using Limits = std::numeric_limits<I>;
  constexpr int kBits = int(sizeof(I)) * 8;
  if (x != x) {
    const bool wide = sizeof(I) == 8 || sizeof(T) == 8;
    return wide ? I(std::uint64_t(1) << (kBits - 1)) : I(0);
  }
  if (x < T(Limits::min())) return Limits::min();
  if (x >= std::ldexp(T(1), Limits::digits)) return Limits::max();
  return I(x);
}

template <class T>
T integral(T x, Rounding rounding) {
  switch (rounding) {
    case Rounding::kZero:
      return std::trunc(x);
    case Rounding::kDown:
      return std::floor(x);
    case Rounding::kUp:
      return std::ceil(x);
    default:
      return std::nearbyint(x);
  }
}

}  // namespace sslkern::ptx
