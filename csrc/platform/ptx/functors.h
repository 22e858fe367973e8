// Operations of two values that several groups of instructions share. Integers wrap around.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace sslkern::ptx {

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_integral_v<T>) {
      return T(std::uint64_t(a) + std::uint64_t(b));
    } else {
      return a + b;
    }
  }
};
struct Minimum {
  template <class T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Maximum {
  template <class T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};
struct And {
  template <class T>
  T operator()(T a, T b) const {
    return T(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return T(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return T(a ^ b);
  }
};

}  // namespace sslkern::ptx
