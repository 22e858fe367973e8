// Vectors of the instruction set that this file is compiled for, on the compiler's vector
// extensions: one source for AVX-512, AVX2, SSE2 and NEON.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "cpu/isa.h"

#define SSLKERN_INLINE inline __attribute__((always_inline))

namespace sslkern::cpu::SSLKERN_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kMicroRows =
    12;  // 24 accumulators, 2 vectors of B and a broadcast of A in 32 registers
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kMicroRows = 6;  // 12 accumulators in 16 registers
#else
constexpr int kVectorBytes = 16;
constexpr int kMicroRows = 6;
#endif
constexpr int kCacheLine = 64;

template <class T>
struct Simd;

template <>
struct Simd<float> {
  using Int = std::int32_t;
  typedef float V __attribute__((vector_size(kVectorBytes)));
  typedef std::int32_t VI __attribute__((vector_size(kVectorBytes)));
  static constexpr int kMantissaBits = 23;
  static constexpr Int kExponentBias = 127;
};

template <>
struct Simd<double> {
  using Int = std::int64_t;
  typedef double V __attribute__((vector_size(kVectorBytes)));
  typedef std::int64_t VI __attribute__((vector_size(kVectorBytes)));
  static constexpr int kMantissaBits = 52;
  static constexpr Int kExponentBias = 1023;
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using IntVec = typename Simd<T>::VI;
template <class T>
constexpr int kWidth = kVectorBytes / int(sizeof(T));

template <class T>
SSLKERN_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
SSLKERN_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<Vec<T>*>(p) = v;
}

template <class T>
SSLKERN_INLINE Vec<T> splat(T x) {
  return Vec<T>{} + x;
}

// 0, 1, 2, ... in the integer lanes that belong to T.
template <class T>
SSLKERN_INLINE IntVec<T> lane_index() {
  IntVec<T> v{};
#pragma GCC unroll 16
  for (int i = 0; i < kWidth<T>; ++i) v[i] = i;
  return v;
}

// c + a * b into the register of c. Without the asm g++ 12 adds a move or a spill to each of the
// many accumulators.
template <class T>
SSLKERN_INLINE void multiply_add(Vec<T>& c, Vec<T> a, Vec<T> b) {
#if defined(__FMA__)
  if constexpr (sizeof(T) == 4) {
    asm("vfmadd231ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  } else {
    asm("vfmadd231pd %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
  }
#else
  c += a * b;
#endif
}

template <class T>
SSLKERN_INLINE T horizontal_sum(Vec<T> v) {
  T lanes[kWidth<T>];
  __builtin_memcpy(lanes, &v, sizeof(v));
  for (int half = kWidth<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

template <class T>
SSLKERN_INLINE T horizontal_max(Vec<T> v) {
  T best = v[0];
  for (int i = 1; i < kWidth<T>; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

template <class T>
SSLKERN_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

namespace detail {

template <class T, std::size_t... I>
SSLKERN_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b, std::index_sequence<I...>,
                                 std::integral_constant<int, 0>) {
  return __builtin_shufflevector(a, b, (I % 2 ? kWidth<T> + int(I) / 2 : int(I) / 2)...);
}

template <class T, std::size_t... I>
SSLKERN_INLINE Vec<T> interleave(Vec<T> a, Vec<T> b, std::index_sequence<I...>,
                                 std::integral_constant<int, 1>) {
  return __builtin_shufflevector(
      a, b, (I % 2 ? kWidth<T> + (kWidth<T> + int(I)) / 2 : (kWidth<T> + int(I)) / 2)...);
}

}  // namespace detail

// Transposes the W x W block at src (rows src_stride apart) into dst: log2(W) perfect shuffles of
// all its rows.
template <class T>
SSLKERN_INLINE void transpose_block(const T* src, std::int64_t src_stride, T* dst,
                                    std::int64_t dst_stride) {
  constexpr int W = kWidth<T>;
  using Lanes = std::make_index_sequence<W>;
  Vec<T> a[W], b[W];
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) a[i] = load(src + i * src_stride);
#pragma GCC unroll 4
  for (int step = 1; step < W; step *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      b[2 * i] =
          detail::interleave<T>(a[i], a[i + W / 2], Lanes{}, std::integral_constant<int, 0>{});
      b[2 * i + 1] =
          detail::interleave<T>(a[i], a[i + W / 2], Lanes{}, std::integral_constant<int, 1>{});
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) a[i] = b[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i) store(dst + i * dst_stride, a[i]);
}

}  // namespace sslkern::cpu::SSLKERN_ISA
