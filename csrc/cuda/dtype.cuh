// Element types, and how tiles of them are multiplied.
#pragma once
#include "contract/cuda.h"
#include "contract/types.h"
#include "platform/platform.h"

namespace sslkern::cuda {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

SSLKERN_DEVICE float to_working(BFloat16 x) { return __bfloat162float(x); }
SSLKERN_DEVICE float to_working(Float16 x) { return __half2float(x); }
SSLKERN_DEVICE float to_working(float x) { return x; }
SSLKERN_DEVICE double to_working(double x) { return x; }

template <class E>
struct Rounded;  // the working type to the element type, to nearest even

template <>
struct Rounded<BFloat16> {
  static SSLKERN_DEVICE BFloat16 from(float x) { return __float2bfloat16(x); }
};
template <>
struct Rounded<Float16> {
  static SSLKERN_DEVICE Float16 from(float x) { return __float2half(x); }
};
template <>
struct Rounded<float> {
  static SSLKERN_DEVICE float from(float x) { return x; }
};
template <>
struct Rounded<double> {
  static SSLKERN_DEVICE double from(double x) { return x; }
};

// Working is the type of statistics and sums.
template <class E>
struct ElementOf {
  using Element = E;
  using Working = float;
};
template <>
struct ElementOf<double> {
  using Element = double;
  using Working = double;
};

// Calls f(ElementOf<E>{}).
template <class F>
void with_element(Dtype dtype, const F& f) {
  switch (dtype) {
    case Dtype::kFloat64:
      return f(ElementOf<double>{});
    case Dtype::kFloat32:
      return f(ElementOf<float>{});
    case Dtype::kBFloat16:
      return f(ElementOf<BFloat16>{});
    case Dtype::kFloat16:
      return f(ElementOf<Float16>{});
  }
}

// Calls f(T{}) with the working type.
template <class F>
void with_working(Dtype dtype, const F& f) {
  dtype == Dtype::kFloat64 ? f(double{}) : f(float{});
}

// Two numbers beside each other, as one access to memory: nvcc makes one of them only where the
// index is that of a pair.
template <class T>
struct PairOf;
template <>
struct PairOf<float> {
  using Type = float2;
};
template <>
struct PairOf<double> {
  using Type = double2;
};
template <class T>
SSLKERN_DEVICE typename PairOf<T>::Type load_pair(const T* pairs, std::int64_t index) {
  return reinterpret_cast<const typename PairOf<T>::Type*>(pairs)[index];
}
template <class T>
SSLKERN_DEVICE void store_pair(T* pairs, std::int64_t index, T first, T second) {
  reinterpret_cast<typename PairOf<T>::Type*>(pairs)[index] = {first, second};
}

// ---- in base 2

constexpr double kLog2E = 1.4426950408889634074;
constexpr double kLn2 = 0.69314718055994530942;

SSLKERN_DEVICE float power_of_two(float x) { return platform::exp2_approximate(x); }
SSLKERN_DEVICE double power_of_two(double x) { return exp2(x); }

// Below every score but -infinity; differences to it are finite, its powers zero.
template <class T>
struct Lowest;
template <>
struct Lowest<float> {
  static constexpr float value = -3e38f;
};
template <>
struct Lowest<double> {
  static constexpr double value = -1e308;
};

// A temperature or scale as the kernels see it: nobody has looked at its value.
SSLKERN_DEVICE double positive_or_nan(double x) {
  return x > 0 && x <= 1.7976931348623157e308 ? x : __longlong_as_double(0x7ff8000000000000ll);
}

}  // namespace sslkern::cuda
