// float16 and bfloat16 as bits, converted to and from float32 without any type or instruction of
// the target. Branch-free, so that a loop over them becomes vector code.
#pragma once
#include <cstdint>

namespace sslkern {

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

namespace math {

static inline __attribute__((always_inline)) float from_bits(std::uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}

static inline __attribute__((always_inline)) std::uint32_t to_bits(float x) {
  return __builtin_bit_cast(std::uint32_t, x);
}

static inline __attribute__((always_inline)) float to_float(float x) { return x; }
static inline __attribute__((always_inline)) double to_float(double x) { return x; }

static inline __attribute__((always_inline)) float to_float(BFloat16 x) {
  return from_bits(std::uint32_t(x.bits) << 16);
}

// Exponent and mantissa moved into place and multiplied by 2^112, the difference of the two biases,
// which also normalises subnormal numbers; infinity and NaN get the remaining exponent bits set.
static inline __attribute__((always_inline)) float to_float(Float16 x) {
  const std::uint32_t magnitude = std::uint32_t(x.bits & 0x7fffu) << 13;
  const float scaled = from_bits(magnitude) * 0x1p112f;
  const std::uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  return from_bits(to_bits(scaled) | special | (std::uint32_t(x.bits & 0x8000u) << 16));
}

template <class E>
struct Rounded;  // float32 or float64 to the element type, to nearest even

template <>
struct Rounded<float> {
  static inline __attribute__((always_inline)) float from(float x) { return x; }
};

template <>
struct Rounded<double> {
  static inline __attribute__((always_inline)) double from(double x) { return x; }
};

template <>
struct Rounded<BFloat16> {
  static inline __attribute__((always_inline)) BFloat16 from(float x) {
    const std::uint32_t bits = to_bits(x);
    const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    const std::uint32_t nan = (bits >> 16) | 0x40u;  // rounding could carry a NaN into infinity
    return {std::uint16_t(x != x ? nan : rounded >> 16)};
  }
};

template <>
struct Rounded<Float16> {
  static inline __attribute__((always_inline)) Float16 from(float x) {
    const std::uint32_t bits = to_bits(x), magnitude = bits & 0x7fffffffu;
    // Normal: rebias and round on the 13 bits that go. Subnormal: adding 1/2 aligns the mantissa at
    // 2^-24.
    const std::uint32_t normal =
        (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const std::uint32_t subnormal = to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000u;
    std::uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;  // rounds to 2^16 or more: infinity
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return {std::uint16_t(half | ((bits >> 16) & 0x8000u))};
  }
};

}  // namespace math
}  // namespace sslkern
