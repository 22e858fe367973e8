// Elements that are read and written as one.
#pragma once
#include <cstring>

#include "cuda/dtype.cuh"

namespace sslkern::cuda {

constexpr int kVectorBytes = 16;  // the most that a thread reads at once

template <class E, int kCount>
struct alignas(kCount * sizeof(E)) Vector {
  static_assert(kCount * sizeof(E) <= kVectorBytes);
  E x[kCount];
};

template <class V, class E>
SSLKERN_DEVICE V load_vector(const E* from) {
  return *reinterpret_cast<const V*>(from);
}

// A plain assignment is one instruction only where the compiler sees fit.
template <class V, class E>
SSLKERN_DEVICE void store_vector(const V& v, E* to) {
  if constexpr (sizeof(V) == sizeof(uint4)) {
    uint4 words;
    memcpy(&words, &v, sizeof(v));
    platform::store_words(to, words);
  } else {
    *reinterpret_cast<V*>(to) = v;
  }
}

template <class V, class E>
SSLKERN_DEVICE V filled_vector(E x) {
  V v;
#pragma unroll
  for (E& element : v.x) element = x;
  return v;
}

// Whether all rows of a matrix may be read so, `count` elements at a time: their begin, their
// distance and their length.
template <class E>
bool rows_have_vectors(const void* rows, std::int64_t stride, std::int64_t columns,
                       std::int64_t count) {
  return reinterpret_cast<std::uintptr_t>(rows) % (count * sizeof(E)) == 0 && stride % count == 0 &&
         columns % count == 0;
}

}  // namespace sslkern::cuda
